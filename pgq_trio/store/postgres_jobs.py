"""The queue table and its log on PostgreSQL; knows statements and records, not connections."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from anyio.lowlevel import checkpoint

from pgq_trio.abc import Claimed, ClaimRequest, JobStore
from pgq_trio.errors import DuplicateJobError, StoreError
from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.outcomes import SUCCESSFUL, Claim, Finished
from pgq_trio.model.wire import cancellation_events
from pgq_trio.models import Job, Log, QueueStatistics
from pgq_trio.postgres.sql_port import ConstraintViolated, Row, SqlConnection
from pgq_trio.settings import Settings
from pgq_trio.store.batches import Merged, chunks, merge_by_key
from pgq_trio.store.log_rows import make_log
from pgq_trio.store.records import make_job
from pgq_trio.store.statements import Statements
from pgq_trio.types import JobId, JobStatus, OnConflict, QueueManagerId, SortOrder

__all__ = ["PostgresJobs"]

#: How often a statement is repeated that lost a race for a slot or a key. Each time somebody else
#: won it.
_RACES = 5

#: Of one statement; claim.sql says why it is bounded. A larger batch gets this many.
_MAX_CLAIM = 10_000

_ENQUEUE: dict[OnConflict, str] = {
    "raise": "enqueue",
    "skip": "enqueue_skip",
    "update_priority": "enqueue_update_priority",
}


class PostgresJobs(JobStore):
    """`JobStore` with one statement for each operation, see `sql/`."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._settings = settings
        self._statements = Statements(settings)
        self._log_all = settings.history == "full"
        self._dedupe_index = settings.index("queue_table", "unique_dedupe_key")
        self._slot_index = settings.index("queue_table", "picked_slot_idx")

    async def enqueue(
        self, jobs: Sequence[NewJob], *, on_conflict: OnConflict
    ) -> list[JobId | None]:
        if not jobs:
            # Not even an empty INSERT: it would wake every worker.
            await checkpoint()
            return []
        merged = merge_by_key(jobs) if on_conflict == "update_priority" else Merged.unchanged(jobs)
        statement = self._statements[_ENQUEUE[on_conflict]]
        batches = [[*_columns(chunk), self._log_all] for chunk in chunks(merged.jobs)]
        try:
            if len(batches) == 1:
                rows = await self._sql.fetch(statement, batches[0])
            else:
                async with self._sql.transaction() as session:
                    rows = [
                        row for batch in batches for row in await session.fetch(statement, batch)
                    ]
        except ConstraintViolated as exc:
            if exc.constraint != self._dedupe_index:
                raise
            raise DuplicateJobError([job.dedupe_key for job in jobs]) from exc.__cause__
        return merged.spread([row[0] for row in rows])

    async def claim(self, request: ClaimRequest) -> Claimed:
        claimed = _claimed(await self._claim(request), request)
        return await self._counted(claimed) if claimed.lost_runs else claimed

    async def _claim(self, request: ClaimRequest) -> list[Row]:
        limits = request.limits
        params: list[object] = [
            request.queue_manager_id,
            list(limits),
            min(request.batch_size, _MAX_CLAIM),
            request.heartbeat_timeout,
            self._log_all,
        ]
        if not any(limits.values()):
            return await self._sql.fetch(self._statements["claim"], params)
        statement = self._statements["claim_limited"]
        params += [list(limits.values()), min(request.limited_batch_size, _MAX_CLAIM)]
        for _ in range(_RACES):
            try:
                return await self._sql.fetch(statement, params)
            except ConstraintViolated as exc:
                if exc.constraint != self._slot_index:
                    raise
        # Others get the slots; what needs none is still there to be had.
        params[6] = 0
        return await self._sql.fetch(statement, params)

    async def _counted(self, claimed: Claimed) -> Claimed:
        """Count the lost runs of rescued jobs: a second statement, only when there are such jobs.

        The claim is made: without an answer it stands, and counts what is known.
        """
        try:
            rows = await self._sql.fetch(self._statements["lost_runs"], [list(claimed.lost_runs)])
        except StoreError:
            return claimed
        logged: dict[JobId, int] = dict(rows)
        attempts = {job.id: job.attempts for job in claimed.jobs}
        lost = {
            job_id: _lost_runs(logged[job_id], attempts[job_id], has_first=self._log_all)
            for job_id in claimed.lost_runs
        }
        return replace(claimed, lost_runs=lost)

    async def finish(
        self, queue_manager_id: QueueManagerId, finished: Sequence[Finished]
    ) -> set[JobId]:
        ids, updated = _fences([claim for claim, _ in finished])
        params: list[object] = [queue_manager_id, ids, updated]
        outcomes = [outcome for _, outcome in finished]
        if all(outcome is SUCCESSFUL or outcome == SUCCESSFUL for outcome in outcomes):
            return _ids(await self._sql.fetch(self._statements["finish_successful"], params))
        params += [
            [outcome.kind for outcome in outcomes],
            [outcome.traceback for outcome in outcomes],
            [outcome.delay.total_seconds() for outcome in outcomes],
        ]
        return _ids(await self._sql.fetch(self._statements["finish"], params))

    async def release(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        params = [queue_manager_id, *_fences(claims), self._log_all]
        return _ids(await self._sql.fetch(self._statements["release"], params))

    async def heartbeat(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        params = [queue_manager_id, *_fences(claims)]
        return _ids(await self._sql.fetch(self._statements["heartbeat"], params))

    async def cancel(self, ids: Collection[JobId]) -> set[JobId]:
        async with self._sql.transaction() as session:
            rows = await session.fetch(self._statements["cancel"], [list(ids)])
            removed = {row[0]: row[1] for row in rows if row[0] is not None}
            if removed:
                events = cancellation_events(
                    sorted(removed),
                    channel=self._settings.channel,
                    sent_at=next(iter(removed.values())),
                )
                await session.fetch(self._statements["notify"], [list(events)])
        return set(removed)

    async def requeue(self, ids: Collection[JobId]) -> set[JobId]:
        params = [list(ids), self._log_all]
        for _ in range(_RACES):
            try:
                return _ids(await self._sql.fetch(self._statements["requeue"], params))
            except ConstraintViolated as exc:
                # A key was taken in between; the next snapshot shows it.
                if exc.constraint != self._dedupe_index:
                    raise
        return _ids(await self._sql.fetch(self._statements["requeue"], params))

    async def clear(self, entrypoints: Collection[str] | None) -> int:
        return await self._count("clear", entrypoints)

    async def clear_log(self, entrypoints: Collection[str] | None) -> int:
        return await self._count("clear_log", entrypoints)

    async def _count(self, statement: str, entrypoints: Collection[str] | None) -> int:
        params = [None if entrypoints is None else list(entrypoints)]
        rows = await self._sql.fetch(self._statements[statement], params)
        count: int = rows[0][0]
        return count

    async def queue_size(self) -> list[QueueStatistics]:
        rows = await self._sql.fetch(self._statements["queue_size"])
        return [
            QueueStatistics(entrypoint=entrypoint, priority=priority, status=status, count=count)
            for entrypoint, priority, status, count in rows
        ]

    async def log(self, *, job_id: JobId | None = None, limit: int | None = None) -> list[Log]:
        return [
            make_log(row) for row in await self._sql.fetch(self._statements["log"], [job_id, limit])
        ]

    async def job_status(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        rows = await self._sql.fetch(self._statements["job_status"], [list(ids), 1])
        return dict(rows)

    async def failed_jobs(self, *, limit: int, order: SortOrder = "DESC") -> list[Job]:
        statement = "failed_jobs" if order == "DESC" else "failed_jobs_oldest"
        rows = await self._sql.fetch(self._statements[statement], [limit])
        return [make_job(row[:10], "failed", *row[10:]) for row in rows]


def _columns(jobs: Sequence[NewJob]) -> list[object]:
    return [
        [job.entrypoint for job in jobs],
        [job.payload for job in jobs],
        [job.priority for job in jobs],
        [None if job.delay is None else job.delay.total_seconds() for job in jobs],
        [job.execute_at for job in jobs],
        [job.dedupe_key for job in jobs],
        [job.headers for job in jobs],
    ]


def _fences(claims: Sequence[Claim]) -> tuple[list[JobId], list[datetime]]:
    return [claim.job_id for claim in claims], [claim.updated for claim in claims]


def _ids(rows: list[Row]) -> set[JobId]:
    # A row without an id stands for the notification that went out.
    return {row[0] for row in rows if row[0] is not None}


def _lost_runs(logged: int, attempts: int, *, has_first: bool) -> int:
    """Return how many runs ended without an outcome, from so many log rows of claims in a row.

    The last of these rows is the claim's own. Without the full history the row of the first claim
    is missing, unless a worker that keeps it made that claim: then there are more rows than
    rescues, each of which counts an attempt.
    """
    runs = logged - 1 if has_first else min(logged, max(attempts, logged - 1))
    return max(1, runs)


def _claimed(rows: list[Row], request: ClaimRequest) -> Claimed:
    last = rows.pop()
    now: datetime = last[2]
    due: datetime | None = last[3]
    owner = request.queue_manager_id
    jobs = [make_job(row, "picked", now, now, owner) for row in rows]
    rescued: str | None = last[4]
    # No count yet: each has lost at least the run that it was rescued from.
    lost = {} if rescued is None else dict.fromkeys(json.loads(rescued), 1)
    next_due = None if due is None else (due - now).total_seconds()
    later: str | None = last[6]
    return Claimed(jobs, next_due, lost, None if later is None else float(later))
