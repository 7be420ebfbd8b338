"""The queue table and its log in memory; every operation is a checkpoint, then one change."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from anyio.lowlevel import checkpoint

from pgq_trio.abc import Claimed, ClaimRequest, JobStore
from pgq_trio.errors import DuplicateJobError, StoreError
from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.outcomes import Claim, Finished
from pgq_trio.model.wire import cancellation_events
from pgq_trio.models import Job, Log, QueueStatistics
from pgq_trio.store.batches import Merged, merge_by_key
from pgq_trio.store.memory_rows import Row
from pgq_trio.store.memory_state import MemoryState
from pgq_trio.types import JobId, JobStatus, OnConflict, QueueManagerId, SortOrder

__all__ = ["MemoryJobs"]

_TICK = timedelta(microseconds=1)

#: How PostgreSQL's enum sorts.
_STATUS_ORDER: tuple[JobStatus, ...] = (
    "queued", "picked", "successful", "exception", "canceled", "deleted", "failed",
)  # fmt: skip


class MemoryJobs(JobStore):
    """`JobStore` on a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state
        self._table = state.jobs
        self._log_all = state.settings.history == "full"
        self._last_id = 0

    async def enqueue(
        self, jobs: Sequence[NewJob], *, on_conflict: OnConflict
    ) -> list[JobId | None]:
        await checkpoint()
        if not jobs:
            return []
        merged = merge_by_key(jobs) if on_conflict == "update_priority" else Merged.unchanged(jobs)
        now = self._state.now()
        times = [_due(job, now) for job in merged.jobs]
        keys = [job.dedupe_key for job in jobs if job.dedupe_key is not None]
        if on_conflict == "raise" and (
            len(set(keys)) < len(keys) or any(self._table.key_owner(key) for key in keys)
        ):
            raise DuplicateJobError([job.dedupe_key for job in jobs])
        ids: list[JobId | None] = []
        for job, execute_after in zip(merged.jobs, times, strict=True):
            owner = self._table.key_owner(job.dedupe_key)
            if owner is None:
                ids.append(self._insert(job, execute_after, now))
            elif on_conflict == "skip":
                ids.append(None)
            else:
                self._table.raise_priority(owner, job.priority)
                ids.append(owner.id)
        self._state.wake("insert", now)
        return merged.spread(ids)

    def _insert(self, job: NewJob, execute_after: datetime, now: datetime) -> JobId:
        self._last_id += 1
        row = Row(
            id=self._last_id,
            priority=job.priority,
            created=now,
            updated=now,
            heartbeat=now,
            execute_after=execute_after,
            entrypoint=job.entrypoint,
            payload=job.payload,
            headers=job.headers,
            dedupe_key=job.dedupe_key,
        )
        self._table.add(row)
        self._log(row, "queued", now)
        return row.id

    async def claim(self, request: ClaimRequest) -> Claimed:
        await checkpoint()
        now = self._state.now()
        for entrypoint in request.limits:
            self._table.promote(entrypoint, now)
        rows = self._choose(request, now)
        next_due = next_later = None
        if len(rows) < request.batch_size:
            next_due = _first_of(map(self._table.earliest, request.limits), now)
            next_later = self._next_later(request, rows, now)
        rows.sort(key=lambda row: (-row.priority, row.id))
        lost = {row.id: row.lost_runs for row in rows if row.lost_runs}
        return Claimed([row.job() for row in rows], next_due, lost, next_later)

    def _next_later(
        self, request: ClaimRequest, claimed: Sequence[Row], now: datetime
    ) -> float | None:
        limited = sum(request.limits[row.entrypoint] > 0 for row in claimed)
        takes_limited = limited < request.limited_batch_size
        return _first_of(
            (
                self._table.earliest_deferred(entrypoint)
                for entrypoint, limit in request.limits.items()
                if not limit
                or (takes_limited and self._table.free_slot(entrypoint, limit) is not None)
            ),
            now,
        )

    def _choose(self, request: ClaimRequest, now: datetime) -> list[Row]:
        """Claim, one after another, the row that is first in line of all there are."""
        line: list[tuple[int, JobId, Row]] = []

        def stand_in_line(row: Row | None) -> None:
            if row is not None:
                heapq.heappush(line, (-row.priority, row.id, row))

        for row in self._table.stale(now - timedelta(seconds=request.heartbeat_timeout)):
            if row.entrypoint in request.limits:
                stand_in_line(row)
        for entrypoint in request.limits:
            stand_in_line(self._table.best(entrypoint, now))
        chosen: list[Row] = []
        limited_left = request.limited_batch_size
        while line and len(chosen) < request.batch_size:
            row = heapq.heappop(line)[2]
            limit = request.limits[row.entrypoint]
            if limit and not limited_left:
                continue
            is_rescue = row.status == "picked"
            slot = row.slot if is_rescue else self._table.free_slot(row.entrypoint, limit)
            if limit and not is_rescue and slot is None:
                continue
            self._pick(row, slot, request.queue_manager_id, now)
            chosen.append(row)
            limited_left -= bool(limit)
            if not is_rescue:
                stand_in_line(self._table.best(row.entrypoint, now))
        return chosen

    def _pick(
        self, row: Row, slot: int | None, queue_manager_id: QueueManagerId, now: datetime
    ) -> None:
        is_rescue = row.status == "picked"
        row.attempts += is_rescue
        row.lost_runs += is_rescue
        row.queue_manager_id = queue_manager_id
        row.updated = row.heartbeat = now
        self._table.make_picked(row, slot)
        self._log(row, "picked", now, always=is_rescue)

    async def finish(
        self, queue_manager_id: QueueManagerId, finished: Sequence[Finished]
    ) -> set[JobId]:
        await checkpoint()
        now = self._state.now()
        written: set[JobId] = set()
        wakes = False
        for claim, outcome in finished:
            row = self._owned(queue_manager_id, claim)
            if row is None:
                continue
            written.add(row.id)
            wakes = wakes or outcome.kind == "retry" or row.slot is not None
            if outcome.kind == "retry":
                row.attempts += 1
                self._queue_again(row, _later(now, outcome.delay), now)
                self._state.write_log(row, "queued", now, outcome.traceback)
            else:
                self._state.write_log(row, outcome.kind, now, outcome.traceback)
                if outcome.kind == "failed":
                    row.updated = now
                    row.queue_manager_id = None
                    self._table.make_failed(row)
                else:
                    self._table.remove(row)
        if wakes:
            self._state.wake("update", now)
        return written

    async def release(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        await checkpoint()
        now = self._state.now()
        released: set[JobId] = set()
        for claim in claims:
            row = self._owned(queue_manager_id, claim)
            if row is not None:
                released.add(row.id)
                self._queue_again(row, now - _TICK, now)
                self._log(row, "queued", now, always=row.attempts > 0)
        if released:
            self._state.wake("update", now)
        return released

    async def heartbeat(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        await checkpoint()
        now = self._state.now()
        rows = [self._owned(queue_manager_id, claim) for claim in claims]
        owned = [row for row in rows if row is not None]
        for row in owned:
            row.heartbeat = now
        return {row.id for row in owned}

    async def cancel(self, ids: Collection[JobId]) -> set[JobId]:
        await checkpoint()
        now = self._state.now()
        rows = [
            self._table.rows[job_id] for job_id in sorted(set(ids)) if job_id in self._table.rows
        ]
        self._remove(rows, "canceled", now)
        cancelled = [row.id for row in rows]
        channel = self._state.settings.channel
        for event in cancellation_events(cancelled, channel=channel, sent_at=now):
            self._state.notify(event)
        return set(cancelled)

    async def requeue(self, ids: Collection[JobId]) -> set[JobId]:
        await checkpoint()
        now = self._state.now()
        requeued: set[JobId] = set()
        for job_id in sorted(set(ids)):
            row = self._table.rows.get(job_id)
            if row is None or row.status != "failed" or self._table.key_owner(row.dedupe_key):
                continue
            row.attempts = 0
            self._queue_again(row, now - _TICK, now)
            self._log(row, "queued", now)
            requeued.add(job_id)
        if requeued:
            self._state.wake("update", now)
        return requeued

    async def clear(self, entrypoints: Collection[str] | None) -> int:
        await checkpoint()
        rows = [
            row
            for row in self._table.rows.values()
            if entrypoints is None or row.entrypoint in entrypoints
        ]
        self._remove(rows, "deleted", self._state.now())
        return len(rows)

    async def clear_log(self, entrypoints: Collection[str] | None) -> int:
        await checkpoint()
        return self._state.clear_log(entrypoints)

    async def queue_size(self) -> list[QueueStatistics]:
        await checkpoint()
        counts: Counter[tuple[str, int, JobStatus]] = Counter(
            (row.entrypoint, row.priority, row.status) for row in self._table.rows.values()
        )
        return [
            QueueStatistics(entrypoint=key[0], priority=key[1], status=key[2], count=counts[key])
            for key in sorted(counts, key=lambda k: (k[0], k[1], _STATUS_ORDER.index(k[2])))
        ]

    async def log(self, *, job_id: JobId | None = None, limit: int | None = None) -> list[Log]:
        await checkpoint()
        log = [x for x in self._state.log if job_id is None or x.job_id == job_id]
        return log if limit is None else log[max(0, len(log) - limit) :]

    async def job_status(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        await checkpoint()
        states: dict[JobId, JobStatus] = {}
        for job_id in ids:
            if (status := self._state.status(job_id)) is not None:
                states[job_id] = status
        return states

    async def failed_jobs(self, *, limit: int, order: SortOrder = "DESC") -> list[Job]:
        await checkpoint()
        rows = [row for row in self._table.rows.values() if row.status == "failed"]
        rows.sort(key=lambda row: (row.created, row.id), reverse=order == "DESC")
        return [row.job() for row in rows[:limit]]

    def _owned(self, queue_manager_id: QueueManagerId, claim: Claim) -> Row | None:
        row = self._table.rows.get(claim.job_id)
        if row is None or row.status != "picked":
            return None
        owns = row.queue_manager_id == queue_manager_id and row.updated == claim.updated
        return row if owns else None

    def _queue_again(self, row: Row, execute_after: datetime, now: datetime) -> None:
        row.execute_after = execute_after
        row.updated = now
        row.queue_manager_id = None
        self._table.make_queued(row)

    def _remove(self, rows: Sequence[Row], status: JobStatus, now: datetime) -> None:
        frees_slot = any(row.slot is not None for row in rows)
        for row in rows:
            self._state.write_log(row, status, now)
            self._table.remove(row)
        if frees_slot:
            self._state.wake("update", now)

    def _log(self, row: Row, status: JobStatus, now: datetime, *, always: bool = False) -> None:
        if self._log_all or always:
            self._state.write_log(row, status, now)


def _first_of(times: Iterable[datetime | None], now: datetime) -> float | None:
    first = min((time for time in times if time is not None), default=None)
    return None if first is None else (first - now).total_seconds()


def _due(job: NewJob, now: datetime) -> datetime:
    return job.execute_at or _later(now, job.delay or timedelta(0))


def _later(now: datetime, delay: timedelta) -> datetime:
    try:
        return now + delay
    except OverflowError as exc:
        raise StoreError(f"no date is {delay} from now") from exc
