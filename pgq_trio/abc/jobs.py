"""The port of the queue table and its log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.outcomes import Claim, Finished
from pgq_trio.models import Job, Log, QueueStatistics
from pgq_trio.types import JobId, JobStatus, OnConflict, QueueManagerId, SortOrder

__all__ = ["ClaimRequest", "Claimed", "JobStore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """What a worker asks of the queue.

    Attributes:
        queue_manager_id: who claims.
        limits: the fleet-wide concurrency limit of each registered entrypoint, 0 without one.
        batch_size: how many jobs at most, at least 1.
        limited_batch_size: how many of them at most may be of entrypoints with a limit, since a
            seat must not be held by a job that waits; may be 0.
        heartbeat_timeout: age in seconds at which the lease of a picked job has expired.
    """

    queue_manager_id: QueueManagerId
    limits: Mapping[str, int]
    batch_size: int
    limited_batch_size: int
    heartbeat_timeout: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought.

    Attributes:
        jobs: the claimed jobs, highest priority first, then lowest id; each is `picked`, with
            `queue_manager_id`, `updated` and `heartbeat` as the claim set them.
        next_due: seconds from now until the earliest of the jobs still queued for these
            entrypoints is due, looked up only when the claim got less than `batch_size`. Zero or
            less: one is due but was not to be had (locked by another worker, or its entrypoint
            has no free slot). None: none is queued, or the batch is full.
        lost_runs: of each rescued job among them, how many runs in a row have ended without an
            outcome, because their worker died or fell silent; at least 1. A release, a retry and
            a requeue begin the count anew. Clearing the log may, too.
        next_later: as `next_due`, of the jobs that are not due yet, so never negative: when to look
            while what is due is not to be had. Entrypoints that have no free slot left are left
            out, as are all with a limit when as many of their jobs as may be were claimed.
    """

    jobs: list[Job]
    next_due: float | None
    lost_runs: Mapping[JobId, int] = field(default_factory=dict[JobId, int])
    next_later: float | None = None


class JobStore(Protocol):
    """The queue table and its log."""

    async def enqueue(
        self, jobs: Sequence[NewJob], *, on_conflict: OnConflict
    ) -> list[JobId | None]:
        """Insert all jobs or none, log each as queued, and wake the workers.

        Returns an id for each job, in order; None where `on_conflict="skip"` left one out.
        `"update_priority"` raises the priority of the job that has the key and returns its id.

        Raises:
            DuplicateJobError: a dedupe key is taken, or given twice, and `on_conflict` is "raise".
        """
        ...

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Take due jobs, and picked jobs whose lease has expired (a rescue), in one order.

        Only rows with `execute_after < now`, priority descending, then id ascending, skipping
        rows another transaction has locked. Each becomes `picked` by the worker with
        `updated = heartbeat = now` and is logged, a rescue whatever the history; a rescue also adds
        one to `attempts`. A fresh claim of a limited entrypoint takes its lowest free slot, if
        fewer jobs of it than the limit are picked, with a slot or without; a rescue keeps the
        row's slot. Losing a race for a slot is no error: what was lost is not claimed.
        """
        ...

    async def finish(
        self, queue_manager_id: QueueManagerId, finished: Sequence[Finished]
    ) -> set[JobId]:
        """Write outcomes, each only where its claim still owns the row.

        successful, exception, canceled: the row is deleted. failed: the row stays, `failed`,
        owned by nobody. retry: `queued` again, due after `delay`, one more attempt, owned by
        nobody, and the workers are woken. Each outcome is logged with its traceback.

        Returns the ids that were written; a missing one lost its lease.
        """
        ...

    async def release(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        """Queue interrupted jobs again, runnable at once, without spending an attempt.

        Only where the claim still owns the row; logs them as queued (those with attempts whatever
        the history), frees their slots and wakes the workers. Returns the ids that were released.
        """
        ...

    async def heartbeat(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        """Renew leases: set `heartbeat = now` and nothing else.

        Returns the ids still owned; a missing one lost its lease.
        """
        ...

    async def cancel(self, ids: Collection[JobId]) -> set[JobId]:
        """Cancel jobs in any state: delete their rows, log them as canceled, tell the workers.

        One atomic change for any number of ids. Returns the ids that were there.
        """
        ...

    async def requeue(self, ids: Collection[JobId]) -> set[JobId]:
        """Queue held (`failed`) jobs again with `attempts = 0`, and wake the workers.

        A job whose dedupe key is taken meanwhile is left as it is. Returns the requeued ids.
        """
        ...

    async def clear(self, entrypoints: Collection[str] | None) -> int:
        """Delete the jobs of these entrypoints, of all with None, and log them as deleted.

        An empty collection deletes nothing. Returns how many rows went.
        """
        ...

    async def clear_log(self, entrypoints: Collection[str] | None) -> int:
        """Delete log rows of these entrypoints, of all with None. Returns how many went."""
        ...

    async def queue_size(self) -> list[QueueStatistics]:
        """Count jobs by entrypoint, priority and status, in this order."""
        ...

    async def log(self, *, job_id: JobId | None = None, limit: int | None = None) -> list[Log]:
        """Return log rows, oldest first: of one job or of all, the newest `limit` of them."""
        ...

    async def job_status(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        """Return the last known state of each job anybody knows: its row's, else its last log's.

        A job without a row whose log ends in no final state is "deleted": its row was truncated
        or deleted by hand. A job without a row and without a log is unknown: it is left out.
        """
        ...

    async def failed_jobs(self, *, limit: int, order: SortOrder = "DESC") -> list[Job]:
        """Return held jobs in the order of their creation, by default the last created first."""
        ...
