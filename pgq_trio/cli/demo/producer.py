"""Enqueues one job for each file that needs one, in batches, while the worker runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import anyio.to_thread

from pgq_trio.cli.demo.files import find_files, key_of
from pgq_trio.cli.demo.names import FILE, Options
from pgq_trio.cli.demo.totals import Totals
from pgq_trio.client.queries import Queries

#: Files enqueued at once: the worker has something to do after the first few milliseconds.
BATCH = 250


class Found(NamedTuple):
    """A file as it is now."""

    key: str
    path: str
    size: int
    mtime_ns: int


class Producer:
    """What has to be done, as far as it is known.

    Attributes:
        planned: the keys of all files this run is about.
        complete: whether all of them are known, and enqueued where they have to be.
    """

    def __init__(self, options: Options, queries: Queries, totals: Totals) -> None:
        self.planned: set[str] = set()
        self.complete: bool = False
        self._options = options
        self._queries = queries
        self._totals = totals

    async def run(self) -> None:
        """Enqueue a job for each file without a result; those that are queued already stay so."""
        files = _found(self._options)
        while batch := await anyio.to_thread.run_sync(_next, files):
            self.planned.update(file.key for file in batch)
            new = [
                file
                for file in batch
                if not self._totals.knows(file.key, size=file.size, mtime_ns=file.mtime_ns)
            ]
            self._totals.missing.update(file.key for file in new)
            if new:
                await self._queries.enqueue(
                    [FILE] * len(new),
                    [os.fsencode(file.path) for file in new],
                    dedupe_key=[dedupe_key(FILE, file.key) for file in new],
                    on_conflict="skip",
                )
        self.complete = True


def dedupe_key(entrypoint: str, key: str) -> str:
    """Return the key that keeps a job of a file from being queued twice."""
    return f"demo:{entrypoint}:{key}"


def _next(files: Iterator[Found]) -> list[Found]:
    return list(islice(files, BATCH))


def _found(options: Options) -> Iterator[Found]:
    for entry in find_files(options.root, options.jobs):
        info = entry.stat(follow_symlinks=False)
        yield Found(key_of(entry.path), entry.path, info.st_size, info.st_mtime_ns)
