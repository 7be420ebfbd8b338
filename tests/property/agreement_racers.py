"""Who does operations on a store in a race: with jobs, and with schedules.

Each operation gives a reply that says nothing of ids, and `tables` and `rest` tell what has become
of it all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeAlias
from uuid import UUID

from pgq_trio.abc import Backend, ClaimRequest
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.outcomes import Claim, Finished, Outcome
from pgq_trio.models import Job
from pgq_trio.types import JobId
from tests.store.world import ALICE, BOB, new

#: Who claims for whom.
WORKERS = {"first": BOB, "second": UUID(int=3), "third": ALICE}
DAVE = UUID(int=4)

#: In seconds.
LEASE = 30.0

#: What is done: its name, and its arguments.
Operation: TypeAlias = tuple[Any, ...]

Step: TypeAlias = Callable[[], Awaitable[None]]


def named(n: int) -> str:
    """Return what a job is called that there is at the start."""
    return f"job {n}"


@dataclass(frozen=True)
class Made:
    """What an enqueue gave."""

    ids: list[JobId | None]


@dataclass
class JobRacer:
    """Does operations on a store, and calls jobs by their payloads.

    Attributes:
        STATES: in which state a job can be at the start, in the order in which they are made. A
            stale one was claimed so long ago that its lease has expired.
        LATER: the first of these after all leases from before have expired.
        limit: of the one entrypoint that all jobs have; 0: each has its own.
        jobs: the id of each job, known to all who are at the same store.
        fences: what Alice has claimed at the start.
        got: what the claim got, if there was one.
    """

    STATES: ClassVar[tuple[str, ...]] = ("failed", "stale", "picked", "queued")
    LATER: ClassVar[str] = "picked"

    backend: Backend
    limit: int = 0
    jobs: dict[str, JobId] = field(default_factory=dict[str, JobId])
    fences: dict[str, Claim] = field(default_factory=dict[str, Claim])
    got: list[str] | None = None

    def beside(self, backend: Backend) -> Self:
        """Return somebody else at the same store, who knows the same."""
        return replace(self, backend=backend, got=None)

    def names(self, ids: Iterable[JobId]) -> list[str]:
        """Return what jobs are called."""
        by_id = {job_id: name for name, job_id in self.jobs.items()}
        return sorted(by_id[job_id] for job_id in ids)

    def ids(self, numbers: Iterable[int]) -> list[JobId]:
        """Return the ids of those jobs that were made."""
        return [self.jobs[named(n)] for n in numbers if named(n) in self.jobs]

    def new(self, name: str, key: str | None, priority: int = 0) -> NewJob:
        """Return a new job."""
        return new("limited" if self.limit else name, name.encode(), key=key, priority=priority)

    def request(self, worker: UUID, names: Iterable[str], batch: int) -> ClaimRequest:
        """Return how to claim these jobs, or any where all have one entrypoint."""
        return ClaimRequest(
            queue_manager_id=worker,
            limits={"limited": self.limit} if self.limit else dict.fromkeys(names, 0),
            batch_size=batch,
            limited_batch_size=batch,
            heartbeat_timeout=LEASE,
        )

    def chosen(self, numbers: Iterable[int]) -> list[Claim]:
        """Return the fences of those jobs that were claimed at the start."""
        return [self.fences[named(n)] for n in numbers if named(n) in self.fences]

    async def do(self, who: str, operation: Operation, *, only: Sequence[str] | None = None) -> Any:
        """Do an operation; `only`: a claim of exactly these."""
        kind, *arguments = operation
        if kind == "claim":
            return await self.claim(who, *arguments, only=only)
        try:
            return await getattr(self, kind)(who, *arguments)
        except DuplicateJobError:
            return "duplicate"

    def making(self, n: int, state: str, key: str | None) -> Sequence[Step]:
        """Return the steps that make a job; there are none left to do if its key is taken."""

        async def enqueue() -> None:
            [job_id] = await self.backend.jobs.enqueue(
                [self.new(named(n), key)], on_conflict="skip"
            )
            if job_id is not None:
                self.jobs[named(n)] = job_id

        async def claim() -> None:
            claimed = await self.backend.jobs.claim(self.request(ALICE, [named(n)], 1))
            self.fences |= {_name(job): Claim(job.id, job.updated) for job in claimed.jobs}

        async def fail() -> None:
            finished = [Finished(claim, Outcome("failed")) for claim in self.chosen([n])]
            await self.backend.jobs.finish(ALICE, finished)

        steps = [enqueue, claim, fail]
        return steps[: {"queued": 1, "failed": 3}.get(state, 2)]

    async def enqueue(self, who: str, keys: Sequence[str | None], on_conflict: Any) -> object:
        """Enqueue new jobs."""
        new_jobs = [self.new(f"{who}'s {n}", key, priority=1) for n, key in enumerate(keys)]
        return Made(await self.backend.jobs.enqueue(new_jobs, on_conflict=on_conflict))

    def plain(self, reply: object) -> object:
        """Return a reply with names for ids, when `tables` has seen who made which."""
        if not isinstance(reply, Made):
            return reply
        return [None if job_id is None else self.names([job_id]) for job_id in reply.ids]

    async def claim(
        self, who: str, numbers: Sequence[int], batch: int, *, only: Sequence[str] | None
    ) -> object:
        """Claim jobs."""
        names = [named(n) for n in numbers] if only is None else only
        claimed = await self.backend.jobs.claim(self.request(WORKERS[who], names, batch))
        self.got = sorted(map(_name, claimed.jobs))
        # Their order is that of ids, which are not given in the order of commits.
        return sorted((_name(job), job.attempts, job.priority) for job in claimed.jobs)

    async def finish(self, _who: str, outcomes: Sequence[tuple[int, Any]]) -> object:
        """Write the outcomes of some that Alice has."""
        finished = [
            Finished(claim, Outcome(kind)) for n, kind in outcomes for claim in self.chosen([n])
        ]
        return self.names(await self.backend.jobs.finish(ALICE, finished))

    async def release(self, _who: str, numbers: Sequence[int]) -> object:
        """Give back some that Alice has."""
        return self.names(await self.backend.jobs.release(ALICE, self.chosen(numbers)))

    async def heartbeat(self, _who: str, numbers: Sequence[int]) -> object:
        """Renew Alice's leases."""
        return self.names(await self.backend.jobs.heartbeat(ALICE, self.chosen(numbers)))

    async def cancel(self, _who: str, numbers: Sequence[int]) -> object:
        """Cancel jobs."""
        return self.names(await self.backend.jobs.cancel(self.ids(numbers)))

    async def requeue(self, _who: str, numbers: Sequence[int]) -> object:
        """Queue held jobs again."""
        return self.names(await self.backend.jobs.requeue(self.ids(numbers)))

    async def clear(self, _who: str, numbers: Sequence[int]) -> object:
        """Delete jobs."""
        return await self.backend.jobs.clear([named(n) for n in numbers])

    async def tables(self) -> object:
        """Return the rows and the log."""
        jobs = await self.backend.insights.browse(
            limit=999, offset=0, statuses=None, entrypoints=None
        )
        # An id that an enqueue gave may be that of a job which somebody else made.
        self.jobs |= {_name(job): job.id for job in jobs}
        log = await self.backend.jobs.log()
        return (
            sorted((replace(job, id=0) for job in jobs), key=_name),
            sorted((self.names([entry.job_id]), entry.created, entry.status) for entry in log),
        )

    async def rest(self) -> object:
        """Return what a worker gets that comes when all is over."""
        claimed = await self.backend.jobs.claim(self.request(DAVE, sorted(self.jobs), 99))
        return sorted((_name(job), job.attempts) for job in claimed.jobs), claimed.next_due


def _name(job: Job) -> str:
    return (job.payload or b"").decode()
