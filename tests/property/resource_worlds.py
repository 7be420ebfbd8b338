"""Applications with shared resources that note what happens, for simulated runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio
import anyio.lowlevel

from pgq_trio import (
    AbstractEntrypointExecutor,
    Context,
    InMemoryDriver,
    Job,
    PgQueuer,
    Queries,
    Resources,
    Schedule,
    ScheduleContext,
)
from pgq_trio.models import QueueStatistics

#: What a resource, a job or a schedule did, in order.
Event = tuple[str, str]

#: How the members are given: nested in one context manager of the user's, or entered one by one
#: into a `Resources`.
Way: TypeAlias = Literal["manager", "container"]
WAYS: tuple[Way, ...] = ("manager", "container")


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
        hangs: a member that never ends closing.
        crashes: a member whose own task raises after so many seconds.
        checkpoints: what each job does, one number of checkpoints a job.
        way: how the members are given.
        events: what happened.
        tasks: in which task each member was entered and left.
    """

    members: tuple[str, ...] = ("outer", "inner")
    fails_to_enter: str | None = None
    fails_to_close: frozenset[str] = frozenset()
    hangs: str | None = None
    crashes: str | None = None
    checkpoints: tuple[int, ...] = (1, 1)
    way: Way = "manager"
    driver: InMemoryDriver = field(default_factory=InMemoryDriver)
    shared: Shared | Resources = field(default_factory=Shared)
    events: list[Event] = field(default_factory=list[Event])
    tasks: list[int] = field(default_factory=list[int])
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

    def source(self) -> Any:
        """Return what `open` gets as resources."""
        return self.resources if self.way == "manager" else self.container

    @asynccontextmanager
    async def resources(self) -> AsyncGenerator[object]:
        """Enter the members one by one and yield the container."""
        async with self._nested(list(self.members)):
            yield self.shared

    async def container(self) -> Resources:
        """Enter the members one by one into a `Resources`."""
        self.shared = Resources()
        for name in self.members:
            await self.shared.enter(name, self._member(name))
        return self.shared

    @asynccontextmanager
    async def _nested(self, members: list[str]) -> AsyncGenerator[None]:
        if not members:
            yield
            return
        async with self._member(members[0]), self._nested(members[1:]):
            yield

    @asynccontextmanager
    async def _member(self, name: str) -> AsyncGenerator[None]:
        """A resource with a task of its own, which the last job may still need; or a plain one."""
        await anyio.lowlevel.checkpoint()
        if self.fails_to_enter == name:
            self.note(name, "fails")
            raise Crash(name)
        async with AsyncExitStack() as stack:
            if not name.startswith("plain"):
                tasks = await stack.enter_async_context(anyio.create_task_group())
                tasks.start_soon(self._keeper, name, name=f"keeper of {name}")
                stack.callback(tasks.cancel_scope.cancel)
            self.note(name, "entered")
            self.alive.add(name)
            self.tasks.append(anyio.get_current_task().id)
            try:
                yield
            finally:
                await self._leave(name)

    async def _leave(self, name: str) -> None:
        self.alive.discard(name)
        self.tasks.append(anyio.get_current_task().id)
        # One by one in a container the library shields it, but not from its own task group, which
        # Trio cancels when a task in it is.
        with anyio.CancelScope(shield=self.way == "manager" or not name.startswith("plain")):
            await anyio.lowlevel.checkpoint()
        if name == self.hangs:
            self.note(name, "hangs")
            await anyio.sleep_forever()
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
            # A member that crashes cancels all that was entered after it, tasks included.
            if name in self.alive and self.is_running and self.crashes is None:
                self.problems.append(f"the keeper of {name} ended before the last job")

    @property
    def is_running(self) -> bool:
        """Whether a job or a fire has started and not cleaned up yet."""
        did = [what for _, what in self.events]
        return did.count("starts") > did.count("has cleaned up")

    # ------------------------------------------------------------------ the application

    async def serve(self) -> None:
        """Open the application, run its jobs to the end, and close it."""
        try:
            async with PgQueuer.open(self.driver, resources=self.source()) as pgq:
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
                await anyio.sleep(0.1)  # so that whoever else ends now ends before
                self.look(context.resources, f"{who} in its cleanup")
            self.note(who, "has cleaned up")

    async def count(self) -> None:
        """Note what is left in the queue."""
        self.queued = await Queries(self.driver).queue_size()

    # ------------------------------------------------------------------ what must hold

    def check_life(self) -> None:
        """Entered before all jobs, left after all of them, each once, last in first out."""
        assert not self.problems, self.problems
        entered = [who for who, what in self.events if what == "entered"]
        closed = [who for who, what in self.events if what == "closed"]
        assert entered == list(self.members)[: len(entered)]
        assert closed == entered[::-1]
        assert len(set(self.tasks)) <= 1, "they are not all entered and left in one task"
        jobs = [
            place for place, (who, _) in enumerate(self.events) if who.startswith(("job", "fire"))
        ]
        if jobs:
            opening = [self.events.index((who, "entered")) for who in self.members]
            closing = [self.events.index((who, "closed")) for who in self.members]
            assert max(opening) < min(jobs)
            assert max(jobs) < min(closing)
            assert not self.is_running

    def left(self) -> dict[str, int]:
        """Return how many jobs are in the queue by status."""
        left: dict[str, int] = {}
        for entry in self.queued:
            left[entry.status] = left.get(entry.status, 0) + entry.count
        return left


@dataclass(eq=False)
class Tally:
    """Handlers of each kind that add to one count, and what they saw of it.

    Attributes:
        count: what the count in the container has to be, kept where no copy can get at it.
        seen: the containers that handlers got.
        stale: counts that were not what was written last.
    """

    count: int = 0
    seen: list[object] = field(default_factory=list[object])
    stale: list[str] = field(default_factory=list[str])

    def add_one(self, resources: Any, who: str) -> None:
        """Read, modify and write without a checkpoint in between."""
        self.seen.append(resources)
        if resources["count"] != self.count:
            self.stale.append(f"{who} saw {resources['count']}, not {self.count}")
        resources["count"] = resources["count"] + 1
        self.count += 1

    async def add_two(self, resources: Any, who: str, between: float = 0.0) -> None:
        """Add one, let others go on, and add one more."""
        self.add_one(resources, who)
        await anyio.sleep(between)
        self.add_one(resources, who)

    def register(self, pgq: PgQueuer) -> None:
        """Register one handler of each kind that adds two to the shared count, in two steps."""
        tally = self

        @pgq.entrypoint("async")
        async def with_context(_job: Job, context: Context) -> None:
            await self.add_two(context.resources, "a job")

        @pgq.entrypoint("asked", accepts_context=True)
        async def without_annotations(_job, context) -> None:  # type: ignore[no-untyped-def]  # so it is
            await self.add_two(context.resources, "a job that accepts a context")

        @pgq.entrypoint("closure")
        async def closure(job: Job) -> None:
            await self.add_two(pgq.qm.get_context(job.id).resources, "a job by its id", 0.5)
            await self.add_two(pgq.resources, "a job by the application")

        @pgq.entrypoint("sync")
        def sync(_job: Job, context: Context) -> None:
            self.add_one(context.resources, "a sync job")
            self.add_one(context.resources, "a sync job")

        class Executor(AbstractEntrypointExecutor):
            async def execute(self, job: Job, context: Context) -> None:
                await tally.add_two(context.resources, "an executor")

        pgq.entrypoint("executor", executor_factory=Executor)(_never_called)
        self.register_schedules(pgq)

    def register_schedules(self, pgq: PgQueuer) -> None:
        """Register one schedule of each kind; each fires every ten seconds."""

        @pgq.schedule("fire", "* * * * * */10")
        async def fire(_schedule: Schedule, context: ScheduleContext) -> None:
            await self.add_two(context.resources, "a schedule")

        @pgq.schedule("fire by closure", "* * * * * */10")
        async def closure(_schedule: Schedule) -> None:
            await self.add_two(pgq.resources, "a schedule by the application")

        @pgq.schedule("sync fire", "* * * * * */10")
        def sync(_schedule: Schedule, context: ScheduleContext) -> None:
            self.add_one(context.resources, "a sync schedule")
            self.add_one(context.resources, "a sync schedule")


#: Steps of a job of each kind, and of one fire of each schedule.
STEPS = {"async": 2, "asked": 2, "closure": 4, "sync": 2, "executor": 2}
FIRES = 6


async def _never_called(_job: Job) -> None:
    raise AssertionError
