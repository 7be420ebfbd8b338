"""Throw-away PostgreSQL servers for the tests; knows databases and processes, not the queue."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgq_trio.postgres._embedded_guard import SERVER_LOCK, try_lock
from pgq_trio.postgres._embedded_host import wheel_bin_dir
from pgq_trio.postgres._embedded_share import POLL, ServerSpec, Share
from pgq_trio.testing.servers import TestServer

#: Speed, not safety: the cluster is thrown away with the session.
SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": "127.0.0.1",
    "max_prepared_transactions": "20",
}

#: Directories of our servers; the id of the process that made it and a random part follow.
PREFIX = "pgq-tests-"

#: How long a start or a stop may take, in seconds.
LIMIT = 60.0

INITDB = (
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of one PostgreSQL installation lie, and what tests call it."""

    name: str
    bin_dir: Path


def available_binaries() -> list[Binaries]:
    """The installations of this machine: the wheel's, then the system's newest if there is one."""
    found = [Binaries("postgresql-18-wheel", wheel_bin_dir())]
    if (system := _system_bin_dir()) is not None:
        found.append(Binaries("postgresql-system", system))
    return found


def _system_bin_dir() -> Path | None:
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else -1,
        reverse=True,
    )
    if (on_path := shutil.which("postgres")) is not None:
        # Distributions link `postgres` alone into /usr/bin; `initdb` lies beside the real file.
        candidates.insert(0, Path(on_path).resolve().parent)
    for candidate in candidates:
        if all(os.access(candidate / name, os.X_OK) for name in ("postgres", "initdb")):
            return candidate
    return None


class PostgresServer(TestServer):
    """The kit's server with what tests of the package itself do to it and ask it."""

    def __init__(self, name: str, conninfo: str) -> None:
        super().__init__(conninfo)
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def dsn(self, dbname: str = "postgres", **overrides: str | int) -> str:
        """The conninfo string of one database of this server."""
        return make_conninfo(self.conninfo, dbname=dbname, **overrides)

    @property
    def version(self) -> int:
        """The major version, such as 18."""
        return self.connection().info.server_version // 10_000

    def execute(self, statement: str | sql.Composed, *params: object) -> list[Any]:
        """Run one statement as the superuser; its rows, if any."""
        cursor = self.connection().execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def fresh_database(self, statements: Sequence[str] = ()) -> Iterator[str]:
        """The conninfo string of a database of its own, dropped at the end.

        It is cloned from a template database in which the statements were run once.
        """

        def fill(dsn: str) -> None:
            with psycopg.connect(dsn, autocommit=True) as connection:
                for statement in statements:
                    connection.execute(statement)

        with self._copy(tuple(statements), fill) as conninfo:
            yield conninfo

    def kill_backends(
        self, *, application_name: str | None = None, dbname: str | None = None
    ) -> int:
        """Terminate the sessions that match both; how many there were."""
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            " AND (%s::text IS NULL OR application_name = %s::text)"
            " AND (%s::text IS NULL OR datname = %s::text)",
            application_name,
            application_name,
            dbname,
            dbname,
        )
        return len(rows)


class OwnServer(PostgresServer):
    """A private cluster in a temporary directory that tests may stop, start and break.

    It is run by the package's own machinery for embedded servers, which knows how to run one as
    root and stops it with this process, however that ends.
    """

    def __init__(self, binaries: Binaries) -> None:
        self.bin_dir = binaries.bin_dir
        remove_abandoned()
        self.data_dir = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=data_root()))
        self.port = free_port()
        settings = {**SERVER_SETTINGS, "port": str(self.port)}
        self._spec = ServerSpec(
            bin_dir=binaries.bin_dir, initdb=INITDB, settings=tuple(settings.items())
        )
        self._share: Share | None = None
        super().__init__(
            binaries.name,
            make_conninfo("", host=str(self.data_dir), port=self.port, user="postgres"),
        )

    def tcp_dsn(self, dbname: str = "postgres") -> str:
        """As `dsn`, over TCP on 127.0.0.1."""
        return self.dsn(dbname, host="127.0.0.1")

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.data_dir / "pgq-trio.log"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        pid = None if self._share is None else self._share.pid()
        if pid is None:
            raise RuntimeError(f"{self!r} is stopped")
        return pid

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        if self._share is not None:
            return
        self._share = Share(self.data_dir, self._spec)
        try:
            run_steps(self._share.opening())
        except BaseException:
            self.stop()
            raise

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: "fast" ends sessions and writes a checkpoint, "immediate" crashes it."""
        self._disconnect()
        if self._share is None:
            return
        if mode == "immediate":
            os.kill(self.pid, signal.SIGQUIT)
        share, self._share = self._share, None
        run_steps(share.leaving())

    def restart(self) -> None:
        """Stop in fast mode and start again: sessions break, data stay."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and delete the cluster."""
        self._templates.clear()
        self.stop("immediate")
        shutil.rmtree(self.data_dir)


def remove_abandoned() -> None:
    """Delete what sessions left that were killed; their servers have stopped by themselves."""
    for directory in Path(data_root()).glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError):
            pid = int(directory.name.removeprefix(PREFIX).split("-")[0])
            with (directory / SERVER_LOCK).open("rb") as lock:
                if not is_alive(pid) and try_lock(lock.fileno(), fcntl.LOCK_EX):
                    shutil.rmtree(directory)


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def run_steps(steps: Iterator[None]) -> None:
    """Run `Share.opening` or `Share.leaving` to its end, in `LIMIT` seconds at most."""
    deadline = time.monotonic() + LIMIT
    for _ in steps:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server did not start or stop in {LIMIT:g} s")
        time.sleep(POLL)


@contextmanager
def own_server(binaries: Binaries) -> Iterator[OwnServer]:
    """A private server that runs, thrown away at the end."""
    server = OwnServer(binaries)
    try:
        server.start()
        yield server
    finally:
        server.close()


#: Returns the server that a parameter of a fixture stands for, started when first asked for.
FindServer = Callable[[Binaries | str], PostgresServer]


@contextmanager
def foreign_server(conninfo: str) -> Iterator[PostgresServer]:
    """Somebody else's server (`PGQ_TEST_DSN`): tests make databases on it and drop them."""
    server = PostgresServer("PGQ_TEST_DSN", conninfo)
    try:
        yield server
    finally:
        server.close()


def data_root() -> str:
    """Where clusters are made: in memory if there is room, where a database costs 25 ms, not 300.

    Never the TMPDIR of the session: socket paths are limited to 107 bytes.
    """
    memory = "/dev/shm"  # noqa: S108 - the directory in it is made by mkdtemp  # noqa: S108 - a private directory is made in it
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30:
        return memory
    return "/tmp"  # noqa: S108 - as above


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


#: `dsn = make_dsn()`: what the fixture of that name gives.
MakeDsn = Callable[[], str]
