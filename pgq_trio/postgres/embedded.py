"""A private PostgreSQL 18 out of a wheel, which lives as long as the programs that use it.

Knows data directories and processes; what is done in the database is not its business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from pgq_trio.postgres._embedded_host import EmbeddedError, EmbeddedUnavailable, wheel_bin_dir
from pgq_trio.postgres._embedded_share import POLL, ServerSpec, Share

__all__ = ["EmbeddedError", "EmbeddedUnavailable", "open_embedded"]

#: Written into the cluster's postgresql.conf when it is made, so the owner of a kept directory may
#: change them there. Small: such a server has one program's work to do.
CONFIGURATION = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "io_method": "sync",  # no worker processes for reads that are in the cache anyway
    "log_checkpoints": "off",
}

#: Of a server whose data end with it.
TEMPORARY_CONFIGURATION = {"fsync": "off", "full_page_writes": "off"}

INITDB = (
    "--username=postgres",
    "--auth=trust",  # only the owner of the directory and root reach the socket
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",  # the same order on every machine
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)

#: How long leaving waits for the server to stop, in seconds: longer than the guard, which drops a
#: shutdown that hangs after 30 s. See `FAST_SHUTDOWN_LIMIT` there.
STOP_LIMIT = 40.0


@asynccontextmanager
async def open_embedded(data_dir: Path | None = None) -> AsyncGenerator[str]:
    """Open a private PostgreSQL 18, starting it if nobody has.

    The server belongs to all that have it open, in this process and others; it stops when the last
    one leaves (fast shutdown: sessions end, data are written), also when that one is killed. Only
    the user who opens it, the user it runs as, and root can connect. Nothing is printed; the
    server's log is the file `pgq-trio.log` in the data directory.

    As root the server runs as the directory's owner; a new directory is given to the user
    `postgres`, or `nobody` if there is none. Directories above keep their owner and mode.

    Args:
        data_dir: where the data are kept; made if missing, parents included. None: a temporary
            directory that goes with the server, which then does not wait for disks (`fsync=off`).

    Yields:
        The conninfo string of database `postgres` as its superuser `postgres`: a Unix socket.

    Raises:
        EmbeddedUnavailable: the extra is missing, or its programs do not run here.
        EmbeddedError: the directory cannot be used, the server does not start (the message shows
            the end of its log), or it does not stop within 40 s.

    Cancellation: opening can be cancelled at any time and leaves nothing running. Leaving is
    shielded and waits until the server is stopped, 40 s at most.
    """
    # A limiter of our own, so that neither step waits for the program's other threads.
    limiter = anyio.CapacityLimiter(1)
    bin_dir = await anyio.to_thread.run_sync(wheel_bin_dir, limiter=limiter)
    share = Share(data_dir, _spec(bin_dir, temporary=data_dir is None))
    try:
        await _drive(share.opening(), limiter)
        yield share.conninfo
    finally:
        with anyio.move_on_after(STOP_LIMIT, shield=True) as scope:
            await _drive(share.leaving(), limiter)
        if scope.cancelled_caught:
            pid = share.pid()
            share.close()
            raise EmbeddedError(
                f"the server in {share.directory} did not stop within {STOP_LIMIT:g} s "
                f"(process id {pid}); its log is pgq-trio.log there"
            )


def _spec(bin_dir: Path, *, temporary: bool) -> ServerSpec:
    configuration = CONFIGURATION | (TEMPORARY_CONFIGURATION if temporary else {})
    settings = [f"-c{name}={value}" for name, value in configuration.items()]
    extra = ["--no-sync", "--no-data-checksums"] if temporary else []
    return ServerSpec(bin_dir=bin_dir, initdb=(*INITDB, *extra, *settings))


async def _drive(steps: Iterator[None], limiter: anyio.CapacityLimiter) -> None:
    """Run a generator to its end, each step in a thread, with a pause where it yields."""
    end = object()
    while True:
        if await anyio.to_thread.run_sync(next, steps, end, limiter=limiter) is end:
            return
        # Another process acts, and nothing but a look tells what it has done.
        await anyio.sleep(POLL)
