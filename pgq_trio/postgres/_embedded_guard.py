"""The process between an embedded server and the programs that use it; knows no event loop.

It runs as a script (`python -I -S _embedded_guard.py PLAN`) in the data directory, makes the
cluster if there is none, starts PostgreSQL and stops it when the last program has left, however
that program ended. It imports the standard library only and all of it at the start: as root it
gives up its rights before it touches the directory, and its new user may not be able to read
Python's files.

Three files in the data directory are locked with `flock`; the kernel unlocks them for the dead.

* `USERS_LOCK`: every program that uses the server holds it shared. Whoever gets it exclusively
  knows that nobody uses the server.
* `GUARD_LOCK`: a guard holds it exclusively for its life, so there is one at most.
* `SERVER_LOCK`: the guard and all its children hold it, so while it is held something is at work in
  the directory, even if the guard was killed. The process id of PostgreSQL is written in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

USERS_LOCK = "pgq-trio.users"
GUARD_LOCK = "pgq-trio.guard"
SERVER_LOCK = "pgq-trio.server"
LOCKS = (USERS_LOCK, GUARD_LOCK, SERVER_LOCK)
LOG = "pgq-trio.log"

#: Where `initdb` works, and what that is renamed to when it has finished.
UNFINISHED = "pgq-trio.init"
FINISHED = "pgq-trio.made"

#: Exit status of the script: another guard is at work in this directory.
BUSY = 75

#: Seconds from the request to end sessions and write a checkpoint to the order to drop everything;
#: the next start then recovers from the log, as after a crash.
FAST_SHUTDOWN_LIMIT = 30.0

#: Seconds between two requests.
STOP_AGAIN = 0.5

#: Seconds between two looks at `USERS_LOCK` while `initdb` runs, which takes less than a second.
INITDB_POLL = 0.05

#: Seconds that `initdb` gets for its present step when nobody waits for it any more.
INITDB_LIMIT = 10.0

LOG_SIZE_LIMIT = 1_000_000
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the guard is told: a JSON object on its command line."""

    bin_dir: str
    data_dir: str
    #: User and group id of the server when the opener is root, else None.
    run_as: list[int] | None
    initdb: list[str]
    options: list[str]
    #: Whether the directory goes with the last user.
    remove: bool


def open_file(path: str | Path, flags: int) -> int:
    """Open a file of ours in the data directory, never through a link that somebody put there."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(fd: int, operation: int) -> bool:
    """Take or change a lock without waiting; False when others hold it.

    A change is not atomic: when it fails, the lock held before may be lost as well.
    """
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Guard:
    """Runs `initdb` and PostgreSQL as its children, one after the other."""

    def __init__(self, plan: Plan, server_lock: int, in_server: Callable[[], None] | None) -> None:
        self._in_server = in_server
        self._plan = plan
        self._server_lock = server_lock
        self._users_lock = open_file(USERS_LOCK, os.O_RDWR | os.O_CREAT)
        self._stopping = False
        self._server: subprocess.Popen[bytes] | None = None
        self._environment = server_environment()
        # As root the path may lead through directories closed to the server's user; where the
        # process *is* needs no path. PostgreSQL never leaves its data directory.
        as_root_on_linux = plan.run_as is not None and sys.platform == "linux"
        self._here = "/proc/self/cwd" if as_root_on_linux else None

    def run(self) -> None:
        """Serve until nobody uses the server any more, or it ends by itself."""
        signal.signal(signal.SIGTERM, self._terminated)
        if self._make_cluster():
            self._serve()
        if self._plan.remove:
            if not try_lock(self._users_lock, fcntl.LOCK_EX):
                # The server ended by itself, and its users want to read the log: they learn from
                # the lock that it is gone, and the directory stays until they leave.
                fcntl.flock(self._server_lock, fcntl.LOCK_UN)
                fcntl.flock(self._users_lock, fcntl.LOCK_EX)
            remove_here(self._plan.data_dir)

    def _unused(self) -> bool:
        return self._stopping or try_lock(self._users_lock, fcntl.LOCK_EX)

    def _make_cluster(self) -> bool:
        """See to it that the directory is a cluster; False when that failed or nobody waits.

        `PG_VERSION` says that it is one and comes last, so a crash at any point leaves a directory
        that the next guard completes. The work happens inside the directory, not beside it: it may
        be a mount point, or its parent closed to us.
        """
        if Path("PG_VERSION").exists():
            return True
        if not Path(FINISHED).is_dir():
            shutil.rmtree(UNFINISHED, ignore_errors=True)
            Path(UNFINISHED).mkdir(mode=0o700)
            if not self._run_initdb():
                shutil.rmtree(UNFINISHED, ignore_errors=True)
                return False
            Path(UNFINISHED).rename(FINISHED)
        for entry in os.listdir(FINISHED):  # noqa: PTH208 - names, relative to two directories
            if entry != "PG_VERSION":
                Path(FINISHED, entry).rename(entry)
        sync_directory(".")
        Path(FINISHED, "PG_VERSION").rename("PG_VERSION")
        sync_directory(".")
        Path(FINISHED).rmdir()
        return True

    def _run_initdb(self) -> bool:
        where = self._here or str(Path(UNFINISHED).absolute())
        process = subprocess.Popen(  # noqa: S603 - our own plan
            [f"{self._plan.bin_dir}/initdb", "-D", where, *self._plan.initdb],
            cwd=UNFINISHED,
            env=self._environment,
            process_group=0,
            pass_fds=(self._server_lock,),
        )
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(INITDB_POLL) == 0
            if self._unused():
                stop_initdb(process)
                return False

    def _serve(self) -> None:
        forget_dead_server()
        where = self._here or str(Path.cwd())
        server = subprocess.Popen(  # noqa: S603 - our own plan
            [f"{self._plan.bin_dir}/postgres", "-D", where, *self._plan.options],
            env=self._environment,
            process_group=0,
            pass_fds=(self._server_lock,),
            # Safe: this process has no other thread yet.
            preexec_fn=self._in_server,  # noqa: PLW1509
        )
        os.pwrite(self._server_lock, f"{server.pid}\n".encode(), 0)
        self._server = server
        threading.Thread(target=self._stop_when_unused, args=(server,), daemon=True).start()
        if self._stopping:
            self._stop_in_background(server)
        server.wait()

    def _terminated(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._server is not None:
            self._stop_in_background(self._server)

    def _stop_in_background(self, server: subprocess.Popen[bytes]) -> None:
        threading.Thread(target=stop_server, args=(server,), daemon=True).start()

    def _stop_when_unused(self, server: subprocess.Popen[bytes]) -> None:
        fcntl.flock(self._users_lock, fcntl.LOCK_EX)  # returns when the last user has left
        stop_server(server)


def stop_initdb(process: subprocess.Popen[bytes]) -> None:
    """Stop `initdb` and return when it has ended."""
    # Only itself at first: it ends after the step at hand, in a fraction of a second. Its bootstrap
    # server, which is in the group, would leave its shared memory behind.
    process.terminate()
    try:
        process.wait(INITDB_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """Stop PostgreSQL and return when it has ended."""
    deadline = time.monotonic() + FAST_SHUTDOWN_LIMIT
    while time.monotonic() < deadline:
        # Again and again, as one that arrives before the program is loaded is lost; PostgreSQL
        # ignores all but the first.
        server.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_AGAIN)
            return
    server.send_signal(signal.SIGQUIT)
    server.wait()


def server_environment() -> dict[str, str]:
    """Our environment without what would change the server: libpq's variables and locales."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def stop_with_parent() -> Callable[[], None] | None:
    """A hook for the child that has Linux stop it (fast shutdown) when its parent is killed."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:  # Python was built without it
        return None
    prctl = ctypes.CDLL(None).prctl

    def hook() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    return hook


def forget_dead_server() -> None:
    """Correct the pid files of a killed server if that id belongs to another program or a zombie.

    PostgreSQL would believe that the old server still runs. The first happens where ids start anew,
    as in a container that was killed and started again, the second where nobody reaps orphans, as
    in a container without an init. We hold the server lock, so no process of ours is alive.

    The id becomes ours: PostgreSQL knows that its parent is no server. The rest of the file stays,
    by which it finds, checks and removes the shared memory of the old server.
    """
    with suppress(OSError, ValueError, IndexError):
        pid = int(Path("postmaster.pid").read_text().split("\n", 1)[0])
        _, name, state = re.split(r"\((.*)\) ", Path(f"/proc/{pid}/stat").read_text(), maxsplit=1)
        if name != "postgres" or state.startswith("Z"):
            for path in (Path("postmaster.pid"), *Path().glob(".s.PGSQL.*.lock")):
                _, rest = path.read_text().split("\n", 1)
                path.write_text(f"{os.getpid()}\n{rest}")


def sync_directory(path: str) -> None:
    """Have the renames in a directory survive a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_here(data_dir: str) -> None:
    """Delete the working directory; what cannot be deleted is left to the opener."""
    for entry in os.scandir("."):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, ignore_errors=True)
        else:
            with suppress(OSError):
                Path(entry.name).unlink()
    with suppress(OSError):
        Path(data_dir).rmdir()


def do_nothing(_signum: int, _frame: FrameType | None) -> None:
    """Handle a signal that is meant for the programs, not for their server."""


def open_log() -> int:
    """The log, a new one when it has grown large."""
    with suppress(FileNotFoundError):
        if Path(LOG).lstat().st_size > LOG_SIZE_LIMIT:
            Path(LOG).rename(f"{LOG}.1")
    return open_file(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def main() -> int:
    """Take the server lock, then go on in the background; 0, or `BUSY`."""
    plan = Plan(**json.loads(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for ignored in (signal.SIGINT, signal.SIGHUP):
        # Not SIG_IGN, which PostgreSQL would inherit until it has its own handler: a request to
        # stop that comes so early would be lost.
        signal.signal(ignored, do_nothing)
    os.umask(0o077)
    in_server = stop_with_parent()  # imports, so before we lose our rights
    if plan.run_as is not None:
        uid, gid = plan.run_as
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # In this order, and the files are closed in the other at the end: whoever finds the server lock
    # held and the guard lock free sees orphans of a guard that was killed.
    server_lock, guard_lock = (
        open_file(name, os.O_RDWR | os.O_CREAT) for name in (SERVER_LOCK, GUARD_LOCK)
    )
    if not (try_lock(guard_lock, fcntl.LOCK_EX) and try_lock(server_lock, fcntl.LOCK_EX)):
        return BUSY
    os.ftruncate(server_lock, 0)
    log = open_log()
    if os.fork() != 0:
        return 0  # the locks are the child's now, and the opener need not wait for it
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, fd)
    Guard(plan, server_lock, in_server).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
