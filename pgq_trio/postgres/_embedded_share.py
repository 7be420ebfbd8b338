"""One program's share in a server on a data directory: join or start it, watch it, leave it.

`opening` and `leaving` are generators that do the blocking work and yield whenever there is
something to wait for; an event loop drives them in threads, a plain program with `time.sleep`.
The server itself belongs to the guard (`_embedded_guard`, which explains the two locks).
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from pgq_trio.postgres import _embedded_guard as guard
from pgq_trio.postgres._embedded_host import (
    EmbeddedError,
    EmbeddedUnavailable,
    Programs,
    ServerUser,
    check_version,
    claim_directory,
    usable_programs,
)

#: Part of the socket's name only: no server of ours listens on TCP unless it is told to.
PORT = 5432

#: Bytes in the address of a Unix socket: 107 on Linux, 103 on macOS and the BSDs.
SOCKET_PATH_LIMIT = 103

#: Given on the command line, so that they hold whatever the cluster's configuration says. The
#: socket lies in the data directory, which only its owner and root can enter: no password is
#: needed, a second opener finds it, and nothing is left behind elsewhere.
SOCKET_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
}

#: Seconds between two steps of `opening` or `leaving`: a start takes 0.05 s, a first one 0.4 s.
POLL = 0.01

LOG_TAIL_BYTES = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """How a server is made and run."""

    bin_dir: Path
    #: Arguments of `initdb`.
    initdb: tuple[str, ...]
    #: Settings on the server's command line, over `SOCKET_SETTINGS`.
    settings: tuple[tuple[str, str], ...] = ()


class ServerState(enum.Enum):
    """What runs on a data directory now."""

    ABSENT = "absent"
    BUSY = "busy"  # being made, started or stopped
    ORPHANED = "orphaned"  # its guard was killed
    READY = "ready"


class Share:
    """One use of a server; make one, run `opening`, use `conninfo`, run `leaving`."""

    def __init__(self, directory: Path | None, spec: ServerSpec) -> None:
        self._given = directory
        self._spec = spec
        self._directory: Path | None = None
        self._link: Path | None = None
        self._users_lock: int | None = None
        self._guard_lock: int | None = None
        self._server_lock: int | None = None

    @property
    def directory(self) -> Path:
        """The data directory, an absolute path; known as soon as `opening` has begun."""
        if self._directory is None:
            raise RuntimeError("the share has not been opened")
        return self._directory

    @property
    def conninfo(self) -> str:
        """Where the superuser finds the database `postgres`."""
        host = self._link or self.directory
        return make_conninfo("", host=str(host), port=PORT, user="postgres", dbname="postgres")

    def opening(self) -> Generator[None]:
        """Join the server, or start it; finished when it accepts connections.

        There is no limit on the time: recovery after a crash takes what it takes. It ends when the
        server is ready or has failed.

        Raises:
            EmbeddedError: see the message, which shows the end of the server's log.
        """
        if self._given is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pgq-trio-")).resolve()
        else:
            self._directory = self._given.absolute().resolve()
        user = claim_directory(self._directory)
        programs = usable_programs(self._spec.bin_dir, user)
        check_version(self._directory, programs.major)
        self._users_lock = self._open_lock(guard.USERS_LOCK, user)
        self._guard_lock = self._open_lock(guard.GUARD_LOCK, user)
        self._server_lock = self._open_lock(guard.SERVER_LOCK, user)
        while not guard.try_lock(self._users_lock, fcntl.LOCK_SH):
            yield  # a guard is stopping the server
        ours_started = False
        while (state := self.state()) is not ServerState.READY:
            if state is ServerState.ABSENT:
                if ours_started:
                    raise EmbeddedError(self._start_failure())
                ours_started = self._spawn_guard(programs, user)
            else:
                self._stop_orphan(state)
                yield
        self._make_link()

    def leaving(self) -> Generator[None]:
        """Leave the server; finished when it is stopped, or others use it.

        Right after any part of `opening`, also one that failed.
        """
        if self._users_lock is not None and self._server_lock is not None:
            fcntl.flock(self._users_lock, fcntl.LOCK_UN)
            while not self._is_over(self._users_lock):
                yield
        self.close()
        if self._given is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        """Give up the share at once; the guard sees to the rest."""
        for lock in (self._users_lock, self._guard_lock, self._server_lock):
            if lock is not None:
                os.close(lock)
        self._users_lock = self._guard_lock = self._server_lock = None
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            with suppress(OSError):
                self._link.parent.rmdir()
            self._link = None

    def state(self) -> ServerState:
        """What runs on the directory now."""
        for lock, state in (
            (self._server_lock, ServerState.ABSENT),
            (self._guard_lock, ServerState.ORPHANED),
        ):
            if lock is None:
                raise RuntimeError("the share is closed")
            if guard.try_lock(lock, fcntl.LOCK_SH):
                fcntl.flock(lock, fcntl.LOCK_UN)
                return state
        with suppress(FileNotFoundError):
            lines = (self.directory / "postmaster.pid").read_bytes().splitlines()
            # The file may be that of a server that was killed, hence the look at the process id.
            if len(lines) > 7 and lines[7].strip() == b"ready" and int(lines[0]) == self.pid():
                return ServerState.READY
        return ServerState.BUSY

    def pid(self) -> int | None:
        """The process id of the server that the last guard started, if it did and we look on."""
        if self._server_lock is None:
            return None
        return int(os.pread(self._server_lock, 32, 0) or b"0") or None

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        try:
            fd = guard.open_file(self.directory / guard.LOG, os.O_RDONLY)
        except OSError:
            return ""
        with os.fdopen(fd, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def _is_over(self, users_lock: int) -> bool:
        """Whether the server we left is gone, or stays for others.

        The guard waits for the exclusive lock. We get it while the guard has not woken up yet, and
        give it back; we get it shared when others use the server; neither when it is stopping.
        """
        if (state := self.state()) is ServerState.ABSENT:
            return True
        self._stop_orphan(state)
        if guard.try_lock(users_lock, fcntl.LOCK_EX):
            others = False
        else:
            others = guard.try_lock(users_lock, fcntl.LOCK_SH)
        fcntl.flock(users_lock, fcntl.LOCK_UN)
        return others

    def _stop_orphan(self, state: ServerState) -> None:
        """Request fast shutdown of a server whose guard was killed; Linux does so by itself."""
        if state is ServerState.ORPHANED and (pid := self.pid()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def _open_lock(self, name: str, user: ServerUser | None) -> int:
        try:
            fd = guard.open_file(self.directory / name, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise EmbeddedError(
                f"{self.directory / name} cannot be opened: {error.strerror}. Delete it if no "
                "program uses the server"
            ) from error
        if user is not None:
            os.fchown(fd, user.uid, user.gid)  # the guard opens it as that user
        return fd

    def _spawn_guard(self, programs: Programs, user: ServerUser | None) -> bool:
        """Start the guard; False when another one is at work. Takes about 30 ms."""
        if not sys.executable or getattr(sys, "frozen", False):
            raise EmbeddedUnavailable(
                "the embedded server needs a Python interpreter for its guard, and this frozen "
                "program has none: use a PostgreSQL server of your own"
            )
        settings = {**SOCKET_SETTINGS, **dict(self._spec.settings)}
        plan = guard.Plan(
            bin_dir=str(programs.bin_dir),
            data_dir=str(self.directory),
            run_as=None if user is None else [user.uid, user.gid],
            initdb=list(self._spec.initdb),
            options=[f"--{name}={value}" for name, value in settings.items()],
            remove=self._given is None,
        )
        finished = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(asdict(plan))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            cwd=self.directory,
            start_new_session=True,  # Ctrl-C in the terminal is for the program, not its server
        )
        if finished.returncode not in {0, guard.BUSY}:
            raise EmbeddedError(
                f"the guard of the embedded server in {self.directory} failed with exit status "
                f"{finished.returncode}: {finished.stdout.strip()}"
            )
        return finished.returncode == 0

    def _start_failure(self) -> str:
        return (
            f"PostgreSQL did not start in {self.directory}; the end of its log {guard.LOG}:\n"
            f"{self.log_tail() or '(empty)'}"
        )

    def _make_link(self) -> None:
        """Give the socket a shorter name when its own does not fit, or libpq would split it."""
        socket = os.fsencode(self.directory / f".s.PGSQL.{PORT}")
        if len(socket) <= SOCKET_PATH_LIMIT and b"," not in socket:
            return
        root = tempfile.gettempdir()
        if len(os.fsencode(root)) > SOCKET_PATH_LIMIT // 2 or "," in root:
            root = "/tmp"  # noqa: S108 - a private directory is made in it
        self._link = Path(tempfile.mkdtemp(prefix="pgq-", dir=root), "db")
        self._link.symlink_to(self.directory)
