"""Looks at embedded servers from outside: their processes, their directories, other openers."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import psycopg
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from psycopg.conninfo import conninfo_to_dict

from pgq_trio.postgres import _embedded_host as host

#: A program that opens a server, says where, and leaves when its standard input ends.
OPENER = """
import pathlib, sys
import anyio
from pgq_trio.postgres.embedded import open_embedded

async def main():
    async with open_embedded(pathlib.Path(sys.argv[2]) if sys.argv[2] else None) as conninfo:
        print(conninfo, flush=True)
        await anyio.wait_readable(0)

anyio.run(main, backend=sys.argv[1])
"""


def query(conninfo: str, statement: str) -> object:
    """The first value of the first row."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def home(conninfo: str) -> Path:
    """The data directory, or the link to it."""
    return Path(str(conninfo_to_dict(conninfo)["host"]))


def postmaster(conninfo: str) -> int:
    """The process id of the server."""
    return int((home(conninfo) / "postmaster.pid").read_text().split()[0])


def shared_memory(conninfo: str) -> str:
    """The id of the server's segment of System V shared memory, which outlives a killed server."""
    return (home(conninfo) / "postmaster.pid").read_text().splitlines()[6].split()[1]


def parent(pid: int) -> int:
    """The parent's process id: the server's is the guard."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def processes_in(directory: Path) -> list[str]:
    """What works in the directory or below: the guard, `initdb`, the server and its children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append((process / "cmdline").read_text())
    return found


def owned_by_server(directory: Path) -> None:
    """As root, give everything in a data directory to the user that servers run as."""
    if (user := host.claim_directory(directory)) is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user.uid, user.gid)


async def gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    await anyio.lowlevel.checkpoint()
    with anyio.fail_after(20):
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            await anyio.wait_readable(fd)
        finally:
            os.close(fd)


@asynccontextmanager
async def opener(backend: str, directory: Path | None) -> AsyncIterator[tuple[Process, str]]:
    """Another program that has a server open; stopped with SIGKILL if it is there at the end."""
    command = [sys.executable, "-W", "error", "-c", OPENER, backend, str(directory or "")]
    async with await anyio.open_process(command, stderr=None, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            output = BufferedByteReceiveStream(process.stdout)
            with anyio.fail_after(30):
                conninfo = await output.receive_until(b"\n", 1000)
            yield process, conninfo.decode()
        finally:
            if process.returncode is None:
                process.kill()


async def leave(process: Process) -> None:
    """Have an `opener` leave the server."""
    assert process.stdin is not None
    await process.stdin.aclose()
    with anyio.fail_after(30):
        assert await process.wait() == 0
