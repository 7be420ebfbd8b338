"""Drawn jobs that run at the same time share one container and lose no update.

Hypothesis draws a list of jobs; each has a kind, a number of read-modify-write steps and a number
of checkpoints between them. All start together, so that their steps interleave. Checked is that

- each sees the very object that was given;
- each step sees the change made just before it, by whomever: no update is lost;
- jobs that still run see the total, and so does every later one.

No step has a checkpoint inside. Steps of `def` handlers are made on the event loop's thread by
`anyio.from_thread.run_sync`: threads run truly in parallel, so a step in the thread itself would
need a lock of the user's (`tests/resources/test_identity.py` has that other way).

The tests are sync and call `anyio.run` for each example, so that each has an event loop of its own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import anyio
import anyio.from_thread
import pytest
from hypothesis import Phase, given, settings, strategies as st

from pgq_trio import (
    AbstractEntrypointExecutor,
    Context,
    Job,
    PgQueuer,
    Schedule,
    ScheduleContext,
)
from pgq_trio.executors import EntrypointExecutorParameters
from tests.property.profiles import examples
from tests.resources.tools import RARE, Barrier, make_due
from tests.worker.places import database
from tests.worker.tools import Place

__all__ = ["database"]

Kind = Literal["async", "get_context", "sync", "executor", "schedule", "sync schedule"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Seconds after which an example has failed, whatever it waits for.
BOUND = 30.0


@dataclass(frozen=True)
class Plan:
    """What one job does."""

    kind: Kind
    #: One step more than there are gaps; each gap is a number of checkpoints.
    gaps: tuple[int, ...]

    @property
    def steps(self) -> int:
        return len(self.gaps) + 1


plans = st.lists(
    st.builds(
        Plan,
        kind=st.sampled_from(KINDS),
        gaps=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


class Shared(dict[str, object]):  # noqa: PLW1641 - as a dict
    """The user's own container; equal to any other, so that only `is` tells them apart."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shared)


@dataclass
class Run:
    """One example: the jobs, the container, and what was seen of it."""

    plans: list[Plan]
    identity: bool
    shared: Shared = field(default_factory=lambda: Shared(count=0))
    #: Beside the container, what its count has to be: kept where no copy can get at it.
    count: int = 0
    later: int = 0
    done: int = 0
    all_done: anyio.Event = field(default_factory=anyio.Event)
    problems: list[str] = field(default_factory=list)

    def look(self, resources: object, who: str) -> Shared:
        """Check that a handler got the object and that it is up to date."""
        assert isinstance(resources, Shared)
        if self.identity and resources is not self.shared:
            self.problems.append(f"{who} got another object")
        if resources["count"] != self.count:
            self.problems.append(f"{who} saw {resources['count']}, not {self.count}")
        return resources

    def step(self, resources: object, who: str) -> None:
        """Read, modify and write, with no checkpoint in between."""
        shared = self.look(resources, who)
        count = shared["count"]
        assert isinstance(count, int)
        shared["count"] = count + 1
        self.count += 1

    def ended(self) -> None:
        """One more job has done everything."""
        self.done += 1
        if self.done == len(self.plans):
            self.all_done.set()

    async def steps(self, plan: Plan, resources: object, together: Barrier) -> None:
        """Do what a job does, on the event loop."""
        await together.wait()
        for gap in (*plan.gaps, None):
            self.step(resources, plan.kind)
            for _ in range(gap or 0):
                await anyio.lowlevel.checkpoint()
        await together.wait()
        self.look(resources, f"{plan.kind} that still runs")
        await together.wait()  # nobody ends, and no later job changes anything, before all looked
        self.ended()

    def steps_in_thread(self, plan: Plan, resources: object, together: Barrier) -> None:
        """The same, from a worker thread."""
        anyio.from_thread.run(together.wait)
        for gap in (*plan.gaps, None):
            anyio.from_thread.run_sync(self.step, resources, plan.kind)
            for _ in range(gap or 0):
                anyio.from_thread.run(anyio.lowlevel.checkpoint)
        anyio.from_thread.run(together.wait)
        anyio.from_thread.run_sync(self.look, resources, f"{plan.kind} that still runs")
        anyio.from_thread.run(together.wait)
        anyio.from_thread.run_sync(self.ended)

    def register(self, pgq: PgQueuer) -> tuple[list[str], list[str]]:
        """Register a handler for each plan; the names of the jobs and of the schedules."""
        together = Barrier(len(self.plans))
        jobs: list[str] = []
        schedules: list[str] = []
        for number, plan in enumerate(self.plans):
            name = f"{plan.kind} {number}"
            (schedules if "schedule" in plan.kind else jobs).append(name)
            self._register(pgq, name, plan, together)
        return jobs, schedules

    def _register(self, pgq: PgQueuer, name: str, plan: Plan, together: Barrier) -> None:
        async def by_context(job: Job, ctx: Context) -> None:
            await self.steps(plan, ctx.resources, together)

        async def by_get_context(job: Job) -> None:
            await self.steps(plan, pgq.qm.get_context(job.id).resources, together)

        def in_thread(job: Job, ctx: Context) -> None:
            self.steps_in_thread(plan, ctx.resources, together)

        async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
            await self.steps(plan, ctx.resources, together)

        def tick_in_thread(schedule: Schedule, ctx: ScheduleContext) -> None:
            self.steps_in_thread(plan, ctx.resources, together)

        run = self

        class Executor(AbstractEntrypointExecutor):
            async def execute(self, job: Job, context: Context) -> None:
                await run.steps(plan, context.resources, together)

        match plan.kind:
            case "async":
                pgq.entrypoint(name)(by_context)
            case "get_context":
                pgq.entrypoint(name)(by_get_context)
            case "sync":
                pgq.entrypoint(name)(in_thread)
            case "executor":
                parameters = EntrypointExecutorParameters(func=by_get_context)
                pgq.qm.register_executor(name, Executor(parameters))
            case "schedule":
                pgq.schedule(name, RARE)(tick)
            case "sync schedule":
                pgq.schedule(name, RARE)(tick_in_thread)

    async def program(self, place: Place) -> None:
        """Run all jobs at once, and a later one."""
        async with place.open(resources=self.shared) as pgq:
            await pgq.queries.clear_queue()
            await pgq.queries.clear_queue_log()
            await pgq.queries.clear_schedule()
            jobs, schedules = self.register(pgq)

            @pgq.entrypoint("later")
            async def later(job: Job, ctx: Context) -> None:
                self.look(ctx.resources, "a later job")
                self.later += 1
                pgq.request_shutdown()

            if jobs:
                await pgq.queries.enqueue(jobs)
            await make_due(pgq, *schedules)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pgq.run(handle_signals=False))
                await self.all_done.wait()
                await pgq.queries.enqueue("later")
            self.look(pgq.resources, "the program")


def check(place: Place, backend: str, plans: list[Plan], *, identity: bool = True) -> None:
    """Run one example and check all of the properties."""

    async def main() -> Run:
        run = Run(plans, identity)
        with anyio.fail_after(BOUND):
            await run.program(place)
        return run

    run = anyio.run(main, backend=backend)
    assert run.problems == []
    assert run.later == 1
    total = sum(plan.steps for plan in plans)
    assert run.shared["count"] == run.count == total


BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


@BACKENDS
@examples(60)
@given(plans=plans)
def test_jobs_share_one_container_in_memory(backend: str, plans: list[Plan]) -> None:
    """In memory, on an event loop of its own for each example."""
    check(Place("memory:"), backend, plans)


@BACKENDS
@examples(25)
@given(plans=plans)
def test_jobs_share_one_container_on_postgresql(
    database: Place, backend: str, plans: list[Plan]
) -> None:
    """The same through a real server, where claims and outcomes take real time."""
    check(database, backend, plans)


def test_all_kinds_at_once() -> None:
    """What Hypothesis may leave out."""
    everything = [Plan(kind, gaps=(0, 1)) for kind in KINDS]
    for backend in ("trio", "asyncio"):
        check(Place("memory:"), backend, everything)


# The properties can fail


@contextmanager
def copied(cls: type[Any], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have each job, or each schedule, get a copy of the resources."""
    original = cls.__init__

    def init(self: object, *, resources: object, **others: object) -> None:
        original(self, resources=copy.copy(resources), **others)

    with patch.context() as patching:
        patching.setattr(cls, "__init__", init)
        yield


#: Which record carries the copy, the kinds it goes to, and whether `is` is checked.
FAULTS = [
    pytest.param(Context, identity, kind, id=f"{kind} {'is' if identity else 'sees'}")
    for identity, kind in itertools.product([True, False], KINDS[:4])
] + [
    pytest.param(ScheduleContext, identity, kind, id=f"{kind} {'is' if identity else 'sees'}")
    for identity, kind in itertools.product([True, False], KINDS[4:])
]


@BACKENDS
@pytest.mark.parametrize(("cls", "identity", "kind"), FAULTS)
def test_a_copy_is_found(
    backend: str, cls: type[Any], identity: bool, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a copy for each job the property fails, also where only what jobs see is checked."""
    with copied(cls, monkeypatch), pytest.raises(AssertionError):
        check(Place("memory:"), backend, [Plan(kind, gaps=())], identity=identity)


@BACKENDS
def test_hypothesis_finds_a_copy(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No example may be kept from here for the tests that have no fault.
    @settings(examples(30), database=None, phases=[Phase.generate])
    @given(plans)
    def property_holds(plans: list[Plan]) -> None:
        check(Place("memory:"), backend, plans, identity=False)

    with copied(Context, monkeypatch), pytest.raises((AssertionError, ExceptionGroup)):
        property_holds()


@BACKENDS
def test_a_checkpoint_inside_of_a_step_is_found(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That steps interleave is what makes this a test: an update that waits in between is lost."""
    lost = 0

    async def waiting_steps(self: Run, plan: Plan, resources: object, together: Barrier) -> None:
        nonlocal lost
        assert isinstance(resources, Shared)
        await together.wait()
        for _ in range(3):
            count = resources["count"]
            await anyio.lowlevel.checkpoint()
            assert isinstance(count, int)
            lost += resources["count"] != count
            resources["count"] = count + 1
            self.count += 1
        self.ended()

    monkeypatch.setattr(Run, "steps", waiting_steps)
    with pytest.raises(AssertionError):
        check(Place("memory:"), backend, [Plan("async", (0, 0))] * 3)
    assert lost
