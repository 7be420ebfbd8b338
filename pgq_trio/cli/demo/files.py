"""What is done with files: find them, hash and count one, count all again; knows no queue."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Self

#: Bytes read at once: memory stays bounded whatever the size of a file.
CHUNK = 1 << 18

#: Directories that change while the demo runs (its own data, caches) or are not part of Python.
SKIPPED = frozenset({"__pycache__", "site-packages", ".pgq-trio"})


class FileResult(NamedTuple):
    """What a job found out about one file; a file that cannot be read counts as empty."""

    size: int
    lines: int
    sha256: bytes
    mtime_ns: int
    readable: bool = True

    def to_payload(self, key: str) -> bytes:
        """Return it as the payload of the job that adds it up."""
        return json.dumps(
            [key, self.size, self.lines, self.sha256.hex(), self.mtime_ns, self.readable]
        ).encode()

    @classmethod
    def from_payload(cls, payload: bytes) -> tuple[str, Self]:
        """Return the file's key and the result."""
        key, size, lines, sha256, mtime_ns, readable = json.loads(payload)
        return key, cls(size, lines, bytes.fromhex(sha256), mtime_ns, readable)


@dataclass(slots=True)
class Sums:
    """The sum of results; adding and subtracting in any order leads to the same.

    `digest` is the exclusive or of all hashes, so it does not depend on the order either.
    """

    files: int = 0
    unreadable: int = 0
    lines: int = 0
    bytes: int = 0
    digest: int = 0

    def add(self, result: FileResult, sign: int = 1) -> None:
        """Add a result, or take it back with sign -1."""
        self.files += sign
        self.unreadable += sign * (not result.readable)
        self.lines += sign * result.lines
        self.bytes += sign * result.size
        self.digest ^= int.from_bytes(result.sha256)


def key_of(path: str) -> str:
    """Return a short name of a path that PostgreSQL can store, whatever bytes are in it."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def find_files(root: str, limit: int | None) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files below a directory, a directory's own first, by name."""
    return islice(_find(root), limit)


def _find(root: str) -> Iterator[os.DirEntry[str]]:
    waiting = [root]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue  # what cannot be listed is left out, here and in the independent count
        yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))
        waiting += [
            entry.path
            for entry in reversed(entries)
            if entry.is_dir(follow_symlinks=False) and entry.name not in SKIPPED
        ]


def examine(path: str, between: Callable[[], object]) -> FileResult:
    """Hash and count one file; `between` is called after each piece that was read."""
    sha256, size, lines = hashlib.sha256(), 0, 0
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib would take longer than small files
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
                size += len(chunk)
                lines += chunk.count(b"\n")
                between()
    except OSError:
        return FileResult(0, 0, bytes(32), 0, readable=False)
    return FileResult(size, lines, sha256.digest(), mtime_ns)


def independent_count(root: str, limit: int | None) -> Sums:
    """Count everything again in the plainest way, without any code that the jobs use."""
    sums = Sums()
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(set(subdirectories) - SKIPPED)
        for path in (os.path.join(directory, name) for name in sorted(names)):  # noqa: PTH118
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            if limit is not None and sums.files >= limit:
                return sums
            sums.files += 1
            try:
                _count_one(path, sums)
            except OSError:
                sums.unreadable += 1
    return sums


def _count_one(path: str, sums: Sums) -> None:
    with open(path, "rb") as file:  # noqa: PTH123
        sha256 = hashlib.file_digest(file, "sha256")
        sums.bytes += file.tell()
        file.seek(0)
        sums.lines += sum(piece.count(b"\n") for piece in iter(lambda: file.read(65536), b""))
    sums.digest ^= int.from_bytes(sha256.digest())
