"""The part of `Queries` that enqueues, cancels, requeues and deletes jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import overload

from pgq_trio.client.base import Names, QueriesBase
from pgq_trio.model.asked import (
    checked_id,
    checked_ids,
    checked_limit,
    checked_names,
    checked_order,
)
from pgq_trio.model.enqueue import ExecuteAfter, Headers, new_jobs
from pgq_trio.models import Job, Log, QueueStatistics
from pgq_trio.types import JobId, JobStatus, OnConflict, SortOrder

__all__ = ["JobQueries", "checked_conflict"]


def checked_conflict(on_conflict: OnConflict) -> OnConflict:
    """Return what is to be done where a dedupe key is taken.

    Raises:
        ValueError: nobody knows how.
    """
    if on_conflict not in ("raise", "skip", "update_priority"):
        raise ValueError(
            f"on_conflict is 'raise', 'skip' or 'update_priority', got {on_conflict!r}"
        )
    return on_conflict


class JobQueries(QueriesBase):
    """Asking for work, and changing what was asked for."""

    @overload
    async def enqueue(
        self,
        entrypoint: str | Sequence[str],
        payload: bytes | Sequence[bytes | None] | None = None,
        priority: int | Sequence[int] = 0,
        execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None = None,
        dedupe_key: str | Sequence[str | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
    ) -> list[JobId]: ...

    @overload
    async def enqueue(
        self,
        entrypoint: str | Sequence[str],
        payload: bytes | Sequence[bytes | None] | None = None,
        priority: int | Sequence[int] = 0,
        execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None = None,
        dedupe_key: str | Sequence[str | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
        *,
        on_conflict: OnConflict,
    ) -> list[JobId | None]: ...

    async def enqueue(
        self,
        entrypoint: str | Sequence[str],
        payload: bytes | Sequence[bytes | None] | None = None,
        priority: int | Sequence[int] = 0,
        execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None = None,
        dedupe_key: str | Sequence[str | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
        *,
        on_conflict: OnConflict = "raise",
    ) -> list[JobId] | list[JobId | None]:
        """Insert one job, or a batch in one statement.

        Args:
            entrypoint: who is to run it; a list makes a batch, over which scalars are broadcast.
            payload: bytes for the handler, at most 250 MB.
            priority: higher runs first.
            execute_after: an offset from the database's now, a `timedelta` or seconds, or an aware
                datetime. At most 100 years, not negative.
            dedupe_key: at most one job with this key is queued or running at a time.
            headers: a JSON object beside the payload.
            on_conflict: when a dedupe key is taken: "raise", "skip" (the id is None), or
                "update_priority" (the job there gets the higher priority; its id).

        Returns:
            the ids, in order, also for a single job.

        Raises:
            TypeError, ValueError: an argument the queue cannot store; nothing was written.
            DuplicateJobError: a dedupe key is taken; nothing was written.
            SchemaMissing: the tables are not there.
            ConnectionLost: whether it was written is unknown.
        """
        jobs = new_jobs(entrypoint, payload, priority, execute_after, dedupe_key, headers)
        return await self.backend.jobs.enqueue(jobs, on_conflict=checked_conflict(on_conflict))

    async def mark_job_as_cancelled(self, ids: JobId | Collection[JobId]) -> set[JobId]:
        """Cancel jobs: queued ones are gone, running ones get their scope cancelled.

        Any number of ids in one atomic change; none is nothing. A running job ends when its
        handler does: at the next checkpoint of an async one, at `check_cancelled` in a thread; a
        process is killed. Returns the ids that were there.

        Raises:
            TypeError, ValueError: something that is no id; nothing was changed.
        """
        return await self.backend.jobs.cancel(checked_ids(ids))

    async def requeue_jobs(self, ids: JobId | Collection[JobId]) -> set[JobId]:
        """Queue held jobs again with `attempts = 0`. Returns the ids that were requeued.

        A job that is not held, or whose dedupe key another job has taken, is left as it is and
        keeps no other one from going.

        Raises:
            TypeError, ValueError: something that is no id; nothing was changed.
        """
        return await self.backend.jobs.requeue(checked_ids(ids))

    async def list_failed_jobs(self, limit: int = 100, order: SortOrder = "DESC") -> list[Job]:
        """Return held jobs, by default the last created first.

        Args:
            limit: how many at the most.
            order: "DESC", or "ASC" for the first created first.

        Raises:
            TypeError, ValueError: an argument that cannot be meant.
        """
        return await self.backend.jobs.failed_jobs(
            limit=checked_limit(limit), order=checked_order(order)
        )

    async def queue_size(self) -> list[QueueStatistics]:
        """Count jobs by entrypoint, priority and status."""
        return await self.backend.jobs.queue_size()

    async def queue_log(
        self, *, job_id: JobId | None = None, limit: int | None = None
    ) -> list[Log]:
        """Return log rows, oldest first: all, or of one job, or the newest `limit`.

        Raises:
            TypeError, ValueError: an argument that cannot be meant.
        """
        return await self.backend.jobs.log(
            job_id=None if job_id is None else checked_id(job_id),
            limit=None if limit is None else checked_limit(limit),
        )

    async def job_status(self, ids: JobId | Collection[JobId]) -> list[tuple[JobId, JobStatus]]:
        """Return the last known state of each job anybody knows, in the order of `ids`.

        Raises:
            TypeError, ValueError: something that is no id.
        """
        asked = checked_ids(ids)
        known = await self.backend.jobs.job_status(asked)
        return [(job_id, known[job_id]) for job_id in asked if job_id in known]

    async def clear_queue(self, entrypoint: Names = None) -> int:
        """Delete the jobs of these entrypoints; None: of all. An empty list deletes nothing.

        The rows of running ones go too: their workers see that at the next heartbeat (after a third
        of `heartbeat_timeout` at most) and cancel the handlers. Returns how many jobs went.

        Raises:
            TypeError, ValueError: something that is no name; nothing was changed.
        """
        return await self.backend.jobs.clear(checked_names(entrypoint))

    async def clear_queue_log(self, entrypoint: Names = None) -> int:
        """Delete the log rows of these entrypoints; None: of all. An empty list: nothing.

        Raises:
            TypeError, ValueError: something that is no name; nothing was changed.
        """
        return await self.backend.jobs.clear_log(checked_names(entrypoint))
