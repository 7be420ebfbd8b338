"""Every job this run has claimed and not yet handed back, from the claim to the written outcome."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime

from pgq_trio.errors import UnknownJob
from pgq_trio.model.outcomes import Claim
from pgq_trio.models import CancellationScope, Context, Job
from pgq_trio.types import CancelReason, JobId


class Lease:
    """The right to run one job.

    It waits, then runs (`context` is set), then ends (`ending`) until the store has its outcome.
    """

    __slots__ = (
        "cancelled",
        "context",
        "ending",
        "job",
        "reason",
        "scope",
        "successor",
        "successor_cancelled",
        "updated",
    )

    def __init__(self, job: Job) -> None:
        self.job: Job = job
        self.updated: datetime = job.updated
        self.context: Context | None = None
        self.scope: CancellationScope | None = None
        self.reason: CancelReason | None = None
        self.ending: bool = False
        self.cancelled: bool = False
        self.successor: Job | None = None
        self.successor_cancelled: bool = False

    @property
    def claim(self) -> Claim:
        """The fence that every write for this job has to pass."""
        return Claim(self.job.id, self.updated)

    def cancel(self, reason: CancelReason) -> None:
        """Cancel the job's scope; the first reason counts. A job that is over is left alone."""
        if self.ending:
            return
        if self.reason is None:
            self.reason = reason
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel(reason.value)


class Leases:
    """All leases of one run by job id."""

    def __init__(self) -> None:
        self._by_id: dict[JobId, Lease] = {}
        self._cancelled_early: set[JobId] | None = None
        self._on_empty: Callable[[], None] = lambda: None
        self._on_claimed_again: Callable[[list[Lease]], None] = lambda _: None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._by_id.values()))

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Call this each time the last lease is gone."""
        self._on_empty = callback

    def when_claimed_again(self, callback: Callable[[list[Lease]], None]) -> None:
        """Hand over leases on jobs that were claimed before the end of their last run was known."""
        self._on_claimed_again = callback

    @contextmanager
    def claiming(self) -> Generator[None, None, None]:
        """Claim inside of this, and `add` what it brought.

        Whoever cancels a job may be heard before the reply to the claim that took it: the lease is
        cancelled then as soon as there is one.
        """
        self._cancelled_early = set()
        try:
            yield
        finally:
            self._cancelled_early = None

    def cancel_for_user(self, job_id: JobId) -> None:
        """Cancel a job that its user cancelled, if it is one of ours or may turn out to be."""
        lease = self._by_id.get(job_id)
        if lease is not None:
            lease.cancel(CancelReason.user)
            # Whatever was claimed again under this id, before or while the user is heard: the row
            # is gone, and no id comes again.
            lease.successor_cancelled = True
        elif self._cancelled_early is not None:
            self._cancelled_early.add(job_id)

    def add(self, jobs: list[Job]) -> list[Lease]:
        """Take over claimed jobs; return the leases that are new.

        A waiting or running job that is here already was our own stale row, rescued by ourselves:
        the heartbeat had failed for too long. It goes on under the new claim instead of running a
        second time. Of one whose outcome is on its way only the reply to that write tells whether
        the claim is such a rescue or a new run (`settle`). One that lost its lease ends first.
        """
        new: list[Lease] = []
        for job in jobs:
            lease = self._by_id.get(job.id)
            if lease is None:
                lease = self._by_id[job.id] = Lease(job)
                new.append(lease)
                if self._cancelled_early and job.id in self._cancelled_early:
                    lease.cancel(CancelReason.user)
            elif lease.ending or lease.reason is CancelReason.lease_lost:
                lease.successor = job
            else:
                lease.updated = job.updated
        return new

    def get(self, job_id: JobId) -> Lease | None:
        """Return the lease on a job, if there is one."""
        return self._by_id.get(job_id)

    def settle(self, lease: Lease, *, written: bool) -> bool:
        """Take the reply to a write that ends a lease. Returns whether to write once more.

        Written under the fence it was sent with, the lease is over, and if the job was claimed
        again meanwhile, that is a new run. Not written, such a claim was our own rescue: the same
        outcome is due under the new fence. Without such a claim the lease is lost.
        """
        successor, lease.successor = lease.successor, None
        if not written and successor is not None:
            lease.updated = successor.updated
            return True
        if successor is not None:
            again = self._by_id[lease.job.id] = Lease(successor)
            if lease.successor_cancelled:
                again.cancel(CancelReason.user)
            self._on_claimed_again([again])
        else:
            self.drop(lease)
        return False

    def drop(self, lease: Lease) -> None:
        """Forget a lease: its outcome is written, or it is lost."""
        if self._by_id.get(lease.job.id) is lease:
            del self._by_id[lease.job.id]
            if not self._by_id:
                self._on_empty()

    def context_of(self, job_id: JobId) -> Context:
        """Return the context of a running job; safe from any thread.

        Raises:
            UnknownJob: the job does not run here now.
        """
        lease = self._by_id.get(job_id)
        context = None if lease is None or lease.ending else lease.context
        if context is None:
            raise UnknownJob(job_id)
        return context
