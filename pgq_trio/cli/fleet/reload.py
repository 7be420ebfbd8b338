"""Noticing that Python files have changed; it knows no process.

It looks at the files' times and sizes: that works on every file system, network and container
mounts included, and needs no library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

#: Seconds between two looks.
INTERVAL = 0.4

#: Directories whose files nobody edits; those whose names start with a dot as well.
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})

#: Time of the last change in nanoseconds, and size in bytes.
Snapshot: TypeAlias = dict[Path, tuple[int, int]]


async def watch(
    directories: Sequence[Path],
    changed: Callable[[Sequence[Path]], None],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Call a function with the files that have changed, until cancelled.

    Files that change together are one change: it is told once two looks in a row agree.

    Args:
        directories: looked through with all below them; hidden directories, virtual environments
            and installed packages are left out.
        changed: gets files that are new, gone or different, sorted.
        task_status: started once later changes are noticed.
    """
    limiter = anyio.CapacityLimiter(1)

    async def look() -> Snapshot:
        return await anyio.to_thread.run_sync(snapshot, directories, limiter=limiter)

    told = before = await look()
    task_status.started()
    while True:
        await anyio.sleep(INTERVAL)  # nothing but a look tells what others did to the files
        now = await look()
        if now == before and now != told:
            changed(sorted(path for path in now.keys() | told if now.get(path) != told.get(path)))
            told = now
        before = now


def snapshot(directories: Sequence[Path]) -> Snapshot:
    """Return what is known of each Python file in the directories."""
    found: Snapshot = {}
    for directory in directories:
        for path in _python_files(directory):
            try:
                status = path.stat()
            except OSError:
                continue  # gone since it was listed
            found[path] = (status.st_mtime_ns, status.st_size)
    return found


def _python_files(directory: Path) -> Iterator[Path]:
    for root, directories, files in os.walk(directory):
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and name not in _SKIPPED
            # In a directory that we may not search, as far as we see there is none.
            and not os.path.exists(os.path.join(root, name, "pyvenv.cfg"))  # noqa: PTH110, PTH118
        ]
        yield from (Path(root, name) for name in files if name.endswith(".py"))
