"""Fleets in memory whose jobs note what they did, for simulated runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Unpack

import anyio
import anyio.lowlevel

from pgq_trio import Context, InMemoryDriver, Job, Log, PgQueuer, Queries, RetryRequested
from pgq_trio.abc import Driver
from pgq_trio.testing import UnreliableDriver
from pgq_trio.testing.expecting import HasQueries
from pgq_trio.types import FINAL_STATES, JobId
from pgq_trio.worker.options import RunArguments

#: What a job does, by the first letter of its payload: returns, fails, asks for one retry, sleeps
#: for a second of the clock that jumps. Some tests have jobs that are "long" or run "forever".
BEHAVIOURS = (b"ok", b"fail", b"again", b"sleep")

#: Fast heartbeats would make long traces; nobody's lease may expire while its owner lives.
HEARTBEAT = 30.0

#: Seconds that an operation of a store takes that is far away, half of them to its change.
FAR = 0.01

#: Names, payloads and priorities of jobs.
Work = list[tuple[str, bytes, int]]


@dataclass(eq=False)
class Fleet:
    """Workers on one queue in memory.

    Attributes:
        limit: the concurrency limit of the entrypoint "limited".
        starts: the jobs in the order in which their handlers were called.
        running: how many handlers of each entrypoint run now, `most` the highest it was.
        early: jobs whose handler was called before they were due.
        owners: how many handlers run each job now.
        problems: what should not have happened.
    """

    limit: int = 1
    driver: Driver = field(default_factory=InMemoryDriver)
    starts: list[Job] = field(default_factory=list[Job])
    running: Counter[str] = field(default_factory=Counter[str])
    most: Counter[str] = field(default_factory=Counter[str])
    owners: Counter[JobId] = field(default_factory=Counter[JobId])
    problems: list[str] = field(default_factory=list[str])
    started: dict[JobId, float] = field(default_factory=dict[JobId, float])

    @property
    def queries(self) -> Queries:
        """Ask the queue."""
        return Queries(self.driver)

    def application(self, **entrypoint: Any) -> PgQueuer:
        """Return one more worker with the handlers "plain" and "limited"."""
        pgq = PgQueuer(self.driver)
        pgq.entrypoint("plain", **entrypoint)(self.handle)
        pgq.entrypoint("limited", concurrency_limit=self.limit, **entrypoint)(self.handle)
        return pgq

    async def handle(self, job: Job, context: Context) -> None:
        """Do what the payload says, and note it."""
        self._begins(job)
        try:
            behaviour = job.payload or b"ok"
            await anyio.lowlevel.checkpoint()
            if behaviour == b"sleep":
                await anyio.sleep(1)
            elif behaviour == b"long":
                await anyio.sleep(8)
            elif behaviour == b"forever":
                await anyio.sleep_forever()
            elif behaviour == b"fail":
                raise ValueError("as asked")
            elif behaviour == b"again" and job.attempts == 0:
                raise RetryRequested(delay=2.0)
        finally:
            self.running[job.entrypoint] -= 1
            self.owners[job.id] -= 1

    def _begins(self, job: Job) -> None:
        self.starts.append(job)
        self.started[job.id] = anyio.current_time()
        self.running[job.entrypoint] += 1
        self.most[job.entrypoint] = max(self.most[job.entrypoint], self.running[job.entrypoint])
        self.owners[job.id] += 1
        if self.owners[job.id] > 1:
            self.problems.append(f"job {job.id} runs twice at a time")
        if job.status != "picked":
            self.problems.append(f"job {job.id} runs while it is {job.status}")

    async def run(self, workers: int, **options: Unpack[RunArguments]) -> None:
        """Run so many workers until the queue is drained."""
        async with anyio.create_task_group() as tasks:
            for number in range(workers):
                tasks.start_soon(_run, self.application(), options, name=f"worker {number}")


def far_away() -> Fleet:
    """Return a fleet whose store takes time to hear and to answer, as a server does."""
    driver = UnreliableDriver(InMemoryDriver())
    driver.delay = FAR
    return Fleet(driver=driver)


async def enqueue(fleet: Fleet, work: Work) -> list[int]:
    """Enqueue jobs in one batch and return their ids."""
    names, payloads, priorities = (list(column) for column in zip(*work, strict=True))
    return await fleet.queries.enqueue(names, payloads, priorities)


async def _run(pgq: PgQueuer, options: RunArguments) -> None:
    options = {"mode": "drain", "handle_signals": False, "heartbeat_timeout": HEARTBEAT} | options
    await pgq.run(**options)


def ask(question: Callable[[], Awaitable[Any]]) -> Any:
    """Ask the queue after a simulated run."""
    return anyio.run(question, backend="trio")


@dataclass(frozen=True)
class Ledger:
    """What the queue knows after a run."""

    log: list[Log]
    left: dict[JobId, str]

    @classmethod
    def of(cls, fleet: HasQueries) -> Ledger:
        """Read the log and the jobs that are left."""
        jobs = ask(lambda: fleet.queries.browse_queue(limit=1000))
        return cls(ask(fleet.queries.queue_log), {job.id: job.status for job in jobs})

    def ends(self, job_id: JobId) -> list[str]:
        """Return the final states of a job; more than one would be one too many."""
        return [x.status for x in self.log if x.job_id == job_id and x.status in FINAL_STATES]

    def check_conservation(self, ids: list[JobId]) -> None:
        """Each job has ended once, or is left; none is lost, none is invented."""
        for job_id in ids:
            ends = self.ends(job_id)
            assert len(ends) + (job_id in self.left) == 1, (job_id, ends, self.left.get(job_id))
        assert {entry.job_id for entry in self.log} <= set(ids)
