"""What a batch of new jobs needs before it is sent: merged keys, bounded size; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pgq_trio.model.enqueue import NewJob
from pgq_trio.types import JobId

__all__ = ["Merged", "chunks", "merge_by_key"]

#: Bounds of one statement. A message of the protocol holds less than 1 GiB, and payloads travel
#: as hexadecimal text, twice their size.
MAX_CHUNK_JOBS = 20_000
MAX_CHUNK_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Merged:
    """A batch in which no key is twice; `places` says where each original job went."""

    jobs: list[NewJob]
    places: list[int]

    @classmethod
    def unchanged(cls, jobs: Sequence[NewJob]) -> Self:
        """Return the batch as it is."""
        return cls(list(jobs), list(range(len(jobs))))

    def spread(self, ids: Sequence[JobId | None]) -> list[JobId | None]:
        """Give each original job the id that its merged job got."""
        return [ids[place] for place in self.places]


def merge_by_key(jobs: Sequence[NewJob]) -> Merged:
    """Merge jobs with the same dedupe key into the first, with the highest priority of them all.

    It is what happens when they come one after another.
    """
    merged: list[NewJob] = []
    places: list[int] = []
    seen: dict[str, int] = {}
    for job in jobs:
        place = None if job.dedupe_key is None else seen.get(job.dedupe_key)
        if place is None:
            place = len(merged)
            merged.append(job)
            if job.dedupe_key is not None:
                seen[job.dedupe_key] = place
        elif job.priority > merged[place].priority:
            merged[place] = replace(merged[place], priority=job.priority)
        places.append(place)
    return Merged(merged, places)


def chunks(jobs: Sequence[NewJob]) -> Iterator[list[NewJob]]:
    """Cut a batch into statements; an empty batch is one empty statement."""
    chunk: list[NewJob] = []
    size = 0
    for job in jobs:
        width = len(job.payload or b"") + len(job.headers or "")
        if chunk and (len(chunk) == MAX_CHUNK_JOBS or size + width > MAX_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(job)
        size += width
    yield chunk
