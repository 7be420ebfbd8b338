"""Applications with shared resources that note what happens, for simulated runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from pgq_trio import (
    AbstractEntrypointExecutor,
    Context,
    InMemoryDriver,
    Job,
    PgQueuer,
    Schedule,
    ScheduleContext,
)
from pgq_trio.models import QueueStatistics

#: What a resource, a job or a schedule did, in order.
Event = tuple[str, str]


class Crash(Exception):
    """What a resource raises on purpose."""


class Shared(dict[str, object]):
    """The user's own container, which must arrive untouched."""


@dataclass(eq=False)
class World:
    """One application: what it is to do, and what happened.

    Attributes:
        members: names of the resources, in the order in which they are entered.
        fails_to_enter: a member that raises when it is entered.
        fails_to_close: members that raise when they are left.
        crashes: a member whose own task raises after so many seconds.
        checkpoints: what each job does, one number of checkpoints a job.
        events: what happened.
    """

    members: tuple[str, ...] = ("outer", "inner")
    fails_to_enter: str | None = None
    fails_to_close: frozenset[str] = frozenset()
    crashes: str | None = None
    checkpoints: tuple[int, ...] = (1, 1)
    driver: InMemoryDriver = field(default_factory=InMemoryDriver)
    shared: Shared = field(default_factory=Shared)
    events: list[Event] = field(default_factory=list[Event])
    alive: set[str] = field(default_factory=set[str])
    problems: list[str] = field(default_factory=list[str])
    queued: list[QueueStatistics] = field(default_factory=list[QueueStatistics])

    def note(self, who: str, what: str) -> None:
        """Note what happened."""
        self.events.append((who, what))

    def look(self, resources: object, who: str) -> None:
        """Note a problem if this is not the very container, or one of its members is gone."""
        if resources is not self.shared:
            self.problems.append(f"{who} got another object")
        for member in self.members:
            if member not in self.alive:
                self.problems.append(f"{who} uses {member}, which is not alive")

    # ------------------------------------------------------------------ resources

    @asynccontextmanager
    async def resources(self) -> AsyncGenerator[Shared]:
        """Enter the members one by one and yield the container."""
        async with self._nested(list(self.members)):
            yield self.shared

    @asynccontextmanager
    async def _nested(self, members: list[str]) -> AsyncGenerator[None]:
        if not members:
            yield
            return
        async with self._member(members[0]), self._nested(members[1:]):
            yield

    @asynccontextmanager
    async def _member(self, name: str) -> AsyncGenerator[None]:
        """A resource with a task of its own, which the last job may still need."""
        await anyio.lowlevel.checkpoint()
        if self.fails_to_enter == name:
            self.note(name, "fails")
            raise Crash(name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keeper, name, name=f"keeper of {name}")
            self.note(name, "entered")
            self.alive.add(name)
            try:
                yield
            finally:
                self.alive.discard(name)
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                self.note(name, "closed")
                if name in self.fails_to_close:
                    raise Crash(name)

    async def _keeper(self, name: str) -> None:
        if self.crashes == name:
            await anyio.sleep(1)
            raise Crash(name)
        try:
            await anyio.sleep_forever()
        finally:
            if name in self.alive and any(
                self._is_running(i) for i in range(len(self.checkpoints))
            ):
                self.problems.append(f"the keeper of {name} ended before the last job")

    def _is_running(self, job: int) -> bool:
        who = f"job {job}"
        return self.events.count((who, "starts")) > self.events.count((who, "has cleaned up"))

    # ------------------------------------------------------------------ the application

    async def serve(self) -> None:
        """Open the application, run its jobs to the end, and close it."""
        try:
            async with PgQueuer.open(self.driver, resources=self.resources) as pgq:
                if pgq.resources is not self.shared or pgq.qm.resources is not self.shared:
                    self.problems.append("the application has another object")
                self.register(pgq)
                payloads: list[bytes | None] = [b"%d" % i for i in range(len(self.checkpoints))]
                await pgq.queries.enqueue(["work"] * len(payloads), payloads)
                self.note("application", "runs")
                await pgq.run(mode="drain", handle_signals=False)
        finally:
            with anyio.CancelScope(shield=True):
                await self.count()

    def register(self, pgq: PgQueuer) -> None:
        """Register a handler that takes checkpoints, holds something and cleans it up."""

        @pgq.entrypoint("work", accepts_context=True)
        async def work(job: Job, context: Context) -> None:
            await self.job(int(job.payload or b""), context)
            if pgq.qm.get_context(job.id).resources is not self.shared:
                self.problems.append("get_context has another object")

    async def job(self, number: int, context: Context) -> None:
        """Run one job: note its start, work, and clean up under a shield."""
        who = f"job {number}"
        self.note(who, "starts")
        self.look(context.resources, who)
        try:
            for _ in range(self.checkpoints[number]):
                await anyio.lowlevel.checkpoint()
            self.look(context.resources, who)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                self.look(context.resources, f"{who} in its cleanup")
            self.note(who, "has cleaned up")

    async def count(self) -> None:
        """Note what is left in the queue."""
        from pgq_trio import Queries

        self.queued = await Queries(self.driver).queue_size()

    # ------------------------------------------------------------------ what must hold

    def check_life(self) -> None:
        """Entered before all jobs, left after all of them, each once, last in first out."""
        assert not self.problems, self.problems
        entered = [who for who, what in self.events if what == "entered"]
        closed = [who for who, what in self.events if what == "closed"]
        assert entered == list(self.members)[: len(entered)]
        assert closed == entered[::-1]
        jobs = [place for place, (who, _) in enumerate(self.events) if who.startswith("job")]
        if jobs:
            opening = [self.events.index((who, "entered")) for who in self.members]
            closing = [self.events.index((who, "closed")) for who in self.members]
            assert max(opening) < min(jobs)
            assert max(jobs) < min(closing)

    def left(self) -> dict[str, int]:
        """Return how many jobs are in the queue by status."""
        left: dict[str, int] = {}
        for entry in self.queued:
            left[entry.status] = left.get(entry.status, 0) + entry.count
        return left


class CountingExecutor(AbstractEntrypointExecutor):
    """An executor of the user's own that adds to the container."""

    async def execute(self, job: Job, context: Context) -> None:
        add_one(context.resources)
        await anyio.lowlevel.checkpoint()
        add_one(context.resources)


def add_one(resources: Any) -> None:
    """Read, modify and write without a checkpoint in between."""
    resources["count"] = resources["count"] + 1


def register_counters(pgq: PgQueuer, seen: list[object]) -> None:
    """Register one handler of each kind that adds two to the shared count, in two steps."""

    @pgq.entrypoint("async")
    async def with_context(_job: Job, context: Context) -> None:
        seen.append(context.resources)
        add_one(context.resources)
        await anyio.lowlevel.checkpoint()
        add_one(context.resources)

    @pgq.entrypoint("closure")
    async def closure(job: Job) -> None:
        seen.append(pgq.qm.get_context(job.id).resources)
        add_one(pgq.resources)
        await anyio.sleep(0.5)
        add_one(pgq.resources)

    @pgq.entrypoint("sync")
    def sync(_job: Job, context: Context) -> None:
        seen.append(context.resources)
        add_one(context.resources)
        add_one(context.resources)

    pgq.entrypoint("executor", executor_factory=CountingExecutor)(_never_called)

    @pgq.schedule("fire", "* * * * * */10")
    async def fire(_schedule: Schedule, context: ScheduleContext) -> None:
        seen.append(context.resources)
        add_one(context.resources)
        await anyio.lowlevel.checkpoint()
        add_one(context.resources)


async def _never_called(_job: Job) -> None:
    raise AssertionError
