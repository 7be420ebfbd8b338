"""The queue table in memory: rows and the indexes over them; synchronous, knows no clock.

The indexes are heaps whose entries are never removed when a row changes: an entry that no longer
says the truth about its row is dropped when it comes to the top.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from pgq_trio.models import Job
from pgq_trio.store.records import make_job
from pgq_trio.types import JobId, JobStatus, QueueManagerId

__all__ = ["JobTable", "Row"]

K = TypeVar("K", int, datetime)


@dataclass(slots=True, eq=False)
class Row:
    """A row of the queue table.

    `lease_entry` is its one true entry in the heap of leases; `lost_runs` counts its runs in a row
    that ended without an outcome.
    """

    id: JobId
    priority: int
    created: datetime
    updated: datetime
    heartbeat: datetime
    execute_after: datetime
    entrypoint: str
    payload: bytes | None
    headers: str | None
    dedupe_key: str | None
    status: JobStatus = "queued"
    attempts: int = 0
    queue_manager_id: QueueManagerId | None = None
    slot: int | None = None
    lease_entry: datetime | None = None
    lost_runs: int = 0

    def job(self) -> Job:
        """Return a record of the row as it is now; nobody shares its headers."""
        row = (
            self.id, self.priority, self.created, self.execute_after, self.entrypoint,
            self.payload, self.headers, self.attempts, self.dedupe_key, self.slot,
        )  # fmt: skip
        return make_job(row, self.status, self.updated, self.heartbeat, self.queue_manager_id)


class _Heap(Generic[K]):
    """Rows by a key, smallest first; `is_true` says whether an entry still holds."""

    def __init__(self, is_true: Callable[[K, JobId], bool]) -> None:
        self._entries: list[tuple[K, JobId]] = []
        self._is_true: Callable[[K, JobId], bool] = is_true
        self._compact_at = 64

    def push(self, key: K, job_id: JobId) -> None:
        heapq.heappush(self._entries, (key, job_id))
        if len(self._entries) > self._compact_at:
            self._entries = sorted({entry for entry in self._entries if self._is_true(*entry)})
            self._compact_at = 2 * len(self._entries) + 64

    def peek(self) -> tuple[K, JobId] | None:
        while self._entries:
            if self._is_true(*self._entries[0]):
                return self._entries[0]
            heapq.heappop(self._entries)
        return None

    def pop(self) -> None:
        heapq.heappop(self._entries)


@dataclass(slots=True)
class _Queue:
    """The queued rows of one entrypoint, how many are picked, and the slots these hold.

    Every queued row is in `deferred` until it is due; then in `ready` by priority, and in `due`
    by time.
    """

    deferred: _Heap[datetime]
    ready: _Heap[int]
    due: _Heap[datetime]
    slots: set[int] = field(default_factory=set[int])
    picked: int = 0


class JobTable:
    """Rows by id, by dedupe key, and by what a claim looks for; ids start at 1."""

    def __init__(self) -> None:
        self.rows: dict[JobId, Row] = {}
        self._by_key: dict[str, JobId] = {}
        self._queues: dict[str, _Queue] = {}
        self._leases: _Heap[datetime] = _Heap(self._is_lease)

    def key_owner(self, key: str | None) -> Row | None:
        """Return the queued or picked row that has a dedupe key."""
        return None if key is None or key not in self._by_key else self.rows[self._by_key[key]]

    def add(self, row: Row) -> None:
        """Insert a queued row."""
        self.rows[row.id] = row
        self.make_queued(row)

    def remove(self, row: Row) -> None:
        """Delete a row in any state."""
        self._leave(row)
        if row.dedupe_key is not None and self._by_key.get(row.dedupe_key) == row.id:
            del self._by_key[row.dedupe_key]
        del self.rows[row.id]

    def make_queued(self, row: Row) -> None:
        """Make a row queued and unowned, due at its `execute_after`."""
        self._leave(row)
        row.status = "queued"
        row.lost_runs = 0
        if row.dedupe_key is not None:
            self._by_key[row.dedupe_key] = row.id
        self._queue(row.entrypoint).deferred.push(row.execute_after, row.id)

    def make_failed(self, row: Row) -> None:
        """Make a row held and unowned; its dedupe key is free."""
        self._leave(row)
        row.status = "failed"
        if row.dedupe_key is not None:
            del self._by_key[row.dedupe_key]

    def make_picked(self, row: Row, slot: int | None) -> None:
        """Make a row picked, or picked by another owner, with a lease from its `heartbeat`."""
        self._leave(row)
        row.status = "picked"
        row.slot = slot
        queue = self._queue(row.entrypoint)
        queue.picked += 1
        if slot is not None:
            queue.slots.add(slot)
        self._lease(row)

    def raise_priority(self, row: Row, priority: int) -> None:
        """Give a row at least this priority."""
        if priority > row.priority:
            row.priority = priority
            if row.status == "queued":
                self._queue(row.entrypoint).ready.push(-priority, row.id)

    def promote(self, entrypoint: str, now: datetime) -> None:
        """Take note of the rows of an entrypoint that are due by now."""
        queue = self._queue(entrypoint)
        while (entry := queue.deferred.peek()) is not None and entry[0] < now:
            queue.deferred.pop()
            row = self.rows[entry[1]]
            queue.ready.push(-row.priority, row.id)
            queue.due.push(row.execute_after, row.id)

    def best(self, entrypoint: str, now: datetime) -> Row | None:
        """Return the due row of an entrypoint that is first in line."""
        queue = self._queue(entrypoint)
        while (entry := queue.ready.peek()) is not None:
            row = self.rows[entry[1]]
            if row.execute_after < now:
                return row
            queue.ready.pop()  # retried since, with its old priority: it is deferred again
        return None

    def earliest(self, entrypoint: str) -> datetime | None:
        """Return when the first of the queued rows of an entrypoint is or was due."""
        queue = self._queue(entrypoint)
        entries = [heap.peek() for heap in (queue.due, queue.deferred)]
        return min((entry[0] for entry in entries if entry is not None), default=None)

    def earliest_deferred(self, entrypoint: str) -> datetime | None:
        """Return when the first of its queued rows is due that were not when `promote` looked."""
        entry = self._queue(entrypoint).deferred.peek()
        return None if entry is None else entry[0]

    def free_slot(self, entrypoint: str, limit: int) -> int | None:
        """Return the lowest slot that is free, None when as many rows as the limit are picked."""
        queue = self._queue(entrypoint)
        if queue.picked >= limit:
            return None
        return next(slot for slot in range(limit) if slot not in queue.slots)

    def stale(self, before: datetime) -> Iterator[Row]:
        """Give the picked rows with a heartbeat older than this, each once."""
        seen: list[Row] = []
        while (entry := self._leases.peek()) is not None and entry[0] < before:
            self._leases.pop()
            row = self.rows[entry[1]]
            if row.heartbeat < before:
                seen.append(row)
            else:
                self._lease(row)  # renewed since; a heartbeat does not touch the heap
        for row in seen:
            self._lease(row)
        yield from seen

    def _leave(self, row: Row) -> None:
        if row.status == "picked":
            queue = self._queue(row.entrypoint)
            queue.picked -= 1
            if row.slot is not None:
                queue.slots.discard(row.slot)
                row.slot = None
        row.lease_entry = None
        row.status = "queued"

    def _lease(self, row: Row) -> None:
        row.lease_entry = row.heartbeat
        self._leases.push(row.heartbeat, row.id)

    def _queue(self, entrypoint: str) -> _Queue:
        queue = self._queues.get(entrypoint)
        if queue is None:
            queue = self._queues[entrypoint] = _Queue(
                _Heap(self._is_time), _Heap(self._is_ready), _Heap(self._is_time)
            )
        return queue

    def _is_time(self, key: datetime, job_id: JobId) -> bool:
        row = self.rows.get(job_id)
        return row is not None and row.status == "queued" and row.execute_after == key

    def _is_ready(self, key: int, job_id: JobId) -> bool:
        row = self.rows.get(job_id)
        return row is not None and row.status == "queued" and row.priority == -key

    def _is_lease(self, key: datetime, job_id: JobId) -> bool:
        row = self.rows.get(job_id)
        return row is not None and row.lease_entry == key
