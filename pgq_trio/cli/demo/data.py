"""The directory of the demo's own server: where it is, and starting over; starts no server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pgq_trio.cli.program import Failure

#: From the current directory.
DIRECTORY = Path(".pgq-trio", "demo")

#: Files in the data directory of every server that this package has made.
MARKS = ("PG_VERSION", "pgq-trio.log")


def remove(directory: Path) -> None:
    """Delete the data of earlier demos: this directory and nothing else.

    Raises:
        Failure: it is something else, or in use.
    """
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise Failure(f"{directory} is no directory of the demo; nothing was deleted")
    if not directory.exists():
        return
    try:
        found = set(os.listdir(directory))  # noqa: PTH208 - names are what is needed
        if found and not found.issuperset(MARKS):
            raise Failure(
                f"{directory} does not look like the data of a demo (no {' and '.join(MARKS)} in "
                "it), so nothing was deleted; remove it yourself if it is to go"
            )
        if _is_running(directory / "postmaster.pid"):
            raise Failure(f"a server is running in {directory}; stop the other demo first")
        shutil.rmtree(directory)
    except OSError as exc:
        raise Failure(f"{directory} cannot be deleted: {exc}") from exc


def _is_running(pid_file: Path) -> bool:
    try:
        pid = int(pid_file.read_text().split()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
        return False
    except PermissionError:
        return True
    return True
