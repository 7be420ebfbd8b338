"""What the contract suite needs of a store: the stores, a way to let time pass, shorthands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import anyio
import anyio.lowlevel

from pgq_trio.abc import Backend, Claimed, ClaimRequest
from pgq_trio.model.enqueue import ExecuteAfter, NewJob, new_jobs
from pgq_trio.model.outcomes import SUCCESSFUL, Claim, Finished, Outcome
from pgq_trio.model.wire import CancellationRequested, Event, parse_event
from pgq_trio.models import Job
from pgq_trio.types import OnConflict

ALICE = UUID(int=1)
BOB = UUID(int=2)

#: Lease of all claims, in seconds.
LEASE = 30.0

#: How long a notification may take, in seconds; none is a failure.
PATIENCE = 5.0


class Passing(Protocol):
    """Lets time pass for every row of a store."""

    async def __call__(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class World:
    """A store under test, empty at first."""

    backend: Backend
    pass_time: Passing

    async def enqueue(self, *jobs: NewJob, on_conflict: OnConflict = "raise") -> list[int | None]:
        return await self.backend.jobs.enqueue(jobs, on_conflict=on_conflict)

    async def enqueue_ids(self, *jobs: NewJob) -> list[int]:
        ids = await self.enqueue(*jobs)
        return [job_id for job_id in ids if job_id is not None]

    async def claim(
        self,
        limits: Mapping[str, int] | None = None,
        *,
        worker: UUID = ALICE,
        batch: int = 1000,
        limited: int = 1000,
        lease: float = LEASE,
    ) -> Claimed:
        return await self.backend.jobs.claim(
            ClaimRequest(
                queue_manager_id=worker,
                limits={"a": 0, "b": 0} if limits is None else limits,
                batch_size=batch,
                limited_batch_size=limited,
                heartbeat_timeout=lease,
            )
        )

    async def claimed_one(
        self, worker: UUID = ALICE, limits: Mapping[str, int] | None = None
    ) -> Job:
        """Enqueue a job and claim it."""
        await self.enqueue(new())
        [job] = (await self.claim(limits, worker=worker)).jobs
        return job

    async def finish(
        self, jobs: Iterable[Job], outcome: Outcome = SUCCESSFUL, *, worker: UUID = ALICE
    ) -> set[int]:
        return await self.backend.jobs.finish(worker, [Finished(fence(j), outcome) for j in jobs])

    async def statuses(self, job_id: int) -> list[str]:
        """The states a job went through, by its log."""
        return [entry.status for entry in await self.backend.jobs.log(job_id=job_id)]

    async def queued(self) -> int:
        """How many jobs are queued, due or not."""
        sizes = await self.backend.jobs.queue_size()
        return sum(size.count for size in sizes if size.status == "queued")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Heard]:
        async with self.backend.notifier.listen() as payloads:
            yield Heard(self, payloads)


@dataclass(slots=True)
class Heard:
    """What a listener hears."""

    world: World
    payloads: AsyncIterator[str]
    rest: list[Event] = field(default_factory=list)

    async def next(self) -> Event:
        with anyio.fail_after(PATIENCE):
            return parse_event(await self.payloads.__anext__())

    async def until_marker(self) -> list[Event]:
        """Everything heard so far, up to a job that comes and goes now."""
        [marker] = await self.world.enqueue_ids(new("marker"))
        await self.world.backend.jobs.cancel([marker])
        heard: list[Event] = []
        while (event := await self.next()) != CancellationRequested((marker,)):
            heard.append(event)
        assert heard.pop() == INSERTED
        return heard


INSERTED = parse_event('{"type": "table_changed_event", "operation": "insert"}')
UPDATED = parse_event('{"type": "table_changed_event", "operation": "update"}')


def new(
    entrypoint: str = "a",
    payload: bytes | None = None,
    *,
    priority: int = 0,
    after: ExecuteAfter | None = None,
    key: str | None = None,
    headers: Mapping[str, object] | None = None,
) -> NewJob:
    [job] = new_jobs(entrypoint, payload, priority, after, key, headers)
    return job


def fence(job: Job) -> Claim:
    return Claim(job.id, job.updated)


def ids_of(jobs: Sequence[Job]) -> list[int]:
    return [job.id for job in jobs]


class ManualClock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    async def advance(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.time += timedelta(seconds=seconds)
