"""What really happened to a queue, change by change, judged by a model that knows no store's code.

It hears of each atomic change right after it was made (`UnreliableDriver.after`), and of each run
of a handler. What it finds wrong is in `problems`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio

from pgq_trio.abc import Claimed
from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.outcomes import Claim, Finished
from pgq_trio.models import Job
from pgq_trio.testing import Call, CallHook
from pgq_trio.types import JobId

__all__ = ["History", "Owner", "Run"]

#: How a run of a handler may have ended that led to an outcome.
_ENDINGS = {
    "successful": {"returned"},
    "exception": {"raised"},
    "failed": {"raised"},
    "retry": {"asked for a retry"},
    "canceled": {"cancelled", "never began"},
}


@dataclass(eq=False)
class Owner:
    """A worker as the history sees it: one incarnation of a process with one connection.

    Attributes:
        trouble_until: until then (on the event loop's clock) it cannot be expected to renew leases.
        strain: how many of its heartbeats, or half seconds of its connection, may get lost.
        fragile: whether these are so many that it cannot be expected to at all.
        risky_claims: numbers of calls whose reply may be lost: it does not know what it got.
        calls: how often it called each operation.
    """

    name: str
    trouble_until: float = -math.inf
    strain: int = 0
    fragile: bool = False
    risky_claims: set[int] = field(default_factory=set[int])
    calls: Callable[[str], int] = lambda _: 0

    @property
    def is_exposed(self) -> bool:
        """Whether what it claims now may be rescued from it by rights."""
        return self.fragile or anyio.current_time() <= self.trouble_until


@dataclass(eq=False)
class Run:
    """One run of a handler.

    Attributes:
        ending: None while it goes on.
        stale_since: when its worker lost the job, on the event loop's clock.
    """

    owner: Owner
    job: Job
    ending: str | None = None
    stale_since: float | None = None


@dataclass(eq=False)
class _Row:
    """A job as it has to be."""

    entrypoint: str
    state: str = "queued"
    attempts: int = 0
    owner: Owner | None = None
    fence: datetime | None = None
    beaten: datetime | None = None
    exposed: bool = False
    ends: list[str] = field(default_factory=list[str])


class History:
    """The jobs of one queue, their owners, runs and ends.

    Args:
        now: the time of the last change, on the database's clock.
        lease: seconds.
        limit: of the entrypoint "limited".
    """

    def __init__(self, *, now: Callable[[], datetime], lease: float, limit: int) -> None:
        self.problems: list[str] = []
        self.rows: dict[JobId, _Row] = {}
        self.runs: list[Run] = []
        self._now = now
        self._lease = timedelta(seconds=lease)
        self._notice = lease / 2
        self._limit = limit

    # What happens.

    def hears(self, owner: Owner) -> CallHook:
        """Return what a worker's driver (or a client's) calls after each change."""

        async def after(call: Call) -> None:
            # No checkpoint: nothing may come between the change and this.
            handler = getattr(self, f"_{call.name}", None)
            if call.store == "jobs" and handler is not None:
                handler(owner, call.result, *call.args)

        return after

    def begins(self, owner: Owner, job: Job) -> Run:
        """Note that a handler is called."""
        run = Run(owner, job)
        row = self.rows[job.id]
        if any(x.owner is owner for x in self._running(job.id)):
            self._problem(f"{owner.name} runs job {job.id} twice at a time")
        if row.owner is not owner:
            run.stale_since = anyio.current_time()
            if row.state != "gone" and not (row.exposed or owner.is_exposed):
                self._problem(f"{owner.name} starts job {job.id}, which it does not own")
        self.runs.append(run)
        if len(self._in_force("limited")) > self._limit:
            self._problem(f"{len(self._in_force('limited'))} limited jobs run")
        return run

    def ended(self, run: Run, ending: str) -> None:
        """Note how a handler ended."""
        run.ending = ending
        if run.stale_since is None or run.job.payload == b"stubborn" or run.owner.is_exposed:
            return
        noticed = anyio.current_time() - max(run.stale_since, run.owner.trouble_until)
        if noticed > self._notice + run.owner.strain:
            self._problem(
                f"{run.owner.name} ran job {run.job.id} for {noticed:.1f} s after it lost it"
            )

    def befall(self, owner: Owner, *, until: float) -> None:
        """Note that a worker cannot renew its leases for a while, on the event loop's clock."""
        owner.trouble_until = max(owner.trouble_until, until)
        for row in self.rows.values():
            row.exposed = row.exposed or row.owner is owner

    def time_flies(self) -> None:
        """Note that all leases have expired at once."""
        for row in self.rows.values():
            row.exposed = True

    def owned(self, owner: Owner) -> int:
        """Return how many jobs a worker owns now."""
        return sum(row.owner is owner for row in self.rows.values())

    @property
    def is_settled(self) -> bool:
        """Whether each job has ended or is held."""
        return all(row.state in {"gone", "failed"} for row in self.rows.values())

    # Changes of the store, each with what it returned and what it was given.

    def _enqueue(self, _owner: Owner, ids: Sequence[JobId | None], jobs: Sequence[NewJob]) -> None:
        for job_id, job in zip(ids, jobs, strict=True):
            if job_id is not None:
                self.rows[job_id] = _Row(job.entrypoint)

    def _claim(self, owner: Owner, claimed: Claimed, _request: Any) -> None:
        for job in claimed.jobs:
            row = self.rows[job.id]
            if row.owner is not None:
                self._rescued(row, job, owner)
            elif row.state != "queued":
                self._problem(f"job {job.id} is claimed while it is {row.state}")
            if job.attempts != row.attempts:
                self._problem(f"job {job.id} has {job.attempts} attempts, not {row.attempts}")
            if job.execute_after > job.updated:
                self._problem(f"job {job.id} is claimed before it is due")
            row.state, row.owner, row.fence, row.beaten = "picked", owner, job.updated, job.updated
            row.exposed = owner.is_exposed or owner.calls("claim") in owner.risky_claims
        taken = sum(x.state == "picked" and x.entrypoint == "limited" for x in self.rows.values())
        if taken > self._limit:
            self._problem(f"{taken} limited jobs are picked")

    def _rescued(self, row: _Row, job: Job, owner: Owner) -> None:
        before = row.owner
        assert before is not None
        assert row.beaten is not None
        if job.updated - row.beaten < self._lease:
            self._problem(f"job {job.id} is rescued after {job.updated - row.beaten}")
        if not (row.exposed or before.is_exposed):
            self._problem(f"{owner.name} rescues job {job.id} from {before.name}, which is well")
        row.attempts += 1
        if before is not owner:
            self._lost(job.id, before)

    def _finish(
        self, owner: Owner, written: Collection[JobId], _id: Any, finished: Sequence[Finished]
    ) -> None:
        for claim, outcome in finished:
            if not self._check_fence(owner, written, claim):
                continue
            row = self.rows[claim.job_id]
            ending = self._ending(owner, claim.job_id)
            if ending not in _ENDINGS[outcome.kind]:
                self._problem(f"job {claim.job_id} {ending}, and is {outcome.kind}")
            if outcome.kind == "retry":
                row.attempts += 1
                self._leave(row, "queued")
            elif outcome.kind == "failed":
                self._leave(row, "failed")
            else:
                self._leave(row, "gone")
                row.ends.append(outcome.kind)

    def _release(
        self, owner: Owner, released: Collection[JobId], _id: Any, claims: Sequence[Claim]
    ) -> None:
        for claim in claims:
            if self._check_fence(owner, released, claim):
                ending = self._ending(owner, claim.job_id)
                if ending not in {"cancelled", "never began"}:
                    self._problem(f"job {claim.job_id} {ending}, and is queued again")
                self._leave(self.rows[claim.job_id], "queued")

    def _heartbeat(
        self, owner: Owner, owned: Collection[JobId], _id: Any, claims: Sequence[Claim]
    ) -> None:
        for claim in claims:
            if self._check_fence(owner, owned, claim):
                row = self.rows[claim.job_id]
                row.beaten = self._now()

    def _cancel(self, _owner: Owner, cancelled: Collection[JobId], ids: Collection[JobId]) -> None:
        for job_id in ids:
            row = self.rows[job_id]
            if (job_id in cancelled) != (row.state != "gone"):
                self._problem(f"job {job_id}, which is {row.state}, is cancelled or is not")
            if job_id in cancelled:
                if row.owner is not None:
                    self._lost(job_id, row.owner)
                self._leave(row, "gone")
                row.ends.append("canceled")

    def _requeue(self, _owner: Owner, requeued: Collection[JobId], ids: Collection[JobId]) -> None:
        for job_id in ids:
            row = self.rows[job_id]
            if (job_id in requeued) != (row.state == "failed"):
                self._problem(f"job {job_id}, which is {row.state}, is requeued or is not")
            if job_id in requeued:
                row.attempts = 0
                self._leave(row, "queued")

    # Judging.

    def _check_fence(self, owner: Owner, written: Collection[JobId], claim: Claim) -> bool:
        row = self.rows[claim.job_id]
        owns = row.owner is owner and row.fence == claim.updated
        if owns != (claim.job_id in written):
            self._problem(f"{owner.name} writes to job {claim.job_id}: {not owns}; owns it: {owns}")
        return owns

    def _leave(self, row: _Row, state: str) -> None:
        row.state, row.owner, row.fence, row.exposed = state, None, None, False

    def _lost(self, job_id: JobId, owner: Owner) -> None:
        for run in self._running(job_id):
            if run.owner is owner and run.stale_since is None:
                run.stale_since = anyio.current_time()

    def _running(self, job_id: JobId) -> list[Run]:
        return [run for run in self.runs if run.ending is None and run.job.id == job_id]

    def _in_force(self, entrypoint: str) -> list[Run]:
        return [
            run
            for run in self.runs
            if run.ending is None
            and run.job.entrypoint == entrypoint
            and self.rows[run.job.id].owner is run.owner
        ]

    def _ending(self, owner: Owner, job_id: JobId) -> str:
        runs = [run for run in self.runs if run.owner is owner and run.job.id == job_id]
        return "never began" if not runs else runs[-1].ending or "still runs"

    def _problem(self, what: str) -> None:
        self.problems.append(f"at {anyio.current_time() % 1e6:.2f}: {what}")
