"""Every job, schedule and executor gets the same object; what one changes the others see."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.from_thread
import pytest

from pgq_trio import (
    AbstractEntrypointExecutor,
    AbstractScheduleExecutor,
    Context,
    EntrypointExecutor,
    InMemoryDriver,
    Job,
    PgQueuer,
    QueueManager,
    Schedule,
    ScheduleContext,
)
from pgq_trio.executors import EntrypointExecutorParameters, ScheduleExecutorParameters
from tests.resources.tools import RARE, Barrier, Registry, add_one, make_due, number
from tests.worker.tools import Notes, Place, drain, running


async def no_handler(job: Job) -> None:
    raise AssertionError("the executor calls no handler")


def note(container: object, who: str) -> None:
    """Leave a mark in whatever container a handler got; from any thread."""
    assert isinstance(container, Registry)
    notes = container["notes"]
    assert isinstance(notes, Notes)
    notes.add((who, container))


@dataclass(eq=False)
class Whole(AbstractEntrypointExecutor):
    """Runs jobs without a handler."""

    async def execute(self, job: Job, context: Context) -> None:
        note(context.resources, job.entrypoint)
        await anyio.lowlevel.checkpoint()


@dataclass(eq=False)
class Around(EntrypointExecutor):
    """Runs the handler as usual and looks at the context as well."""

    async def execute(self, job: Job, context: Context) -> None:
        note(context.resources, "executor around it")
        await super().execute(job, context)


@dataclass(eq=False)
class Ticking(AbstractScheduleExecutor):
    """Runs fires without a handler."""

    async def execute(self, schedule: Schedule, context: ScheduleContext) -> None:
        note(context.resources, schedule.entrypoint)
        await anyio.lowlevel.checkpoint()


def register_all(
    pgq: PgQueuer,
) -> tuple[list[str], list[str]]:
    """Register a handler of each kind; the names of the jobs and of the schedules."""

    @pgq.entrypoint("async job")
    async def async_job(job: Job, ctx: Context) -> None:
        note(ctx.resources, job.entrypoint)

    @pgq.entrypoint("sync job")
    def sync_job(job: Job, ctx: Context) -> None:
        anyio.from_thread.run_sync(note, ctx.resources, job.entrypoint)

    @pgq.entrypoint("job by get_context")
    async def without_context(job: Job) -> None:
        note(pgq.qm.get_context(job.id).resources, job.entrypoint)

    @pgq.entrypoint("sync job by get_context")
    def sync_without_context(job: Job) -> None:
        resources = pgq.qm.get_context(job.id).resources
        anyio.from_thread.run_sync(note, resources, job.entrypoint)

    @pgq.entrypoint("job by closure")
    async def by_closure(job: Job) -> None:
        note(pgq.resources, job.entrypoint)

    @pgq.entrypoint("handler inside of an executor", executor_factory=Around)
    async def inside(job: Job, ctx: Context) -> None:
        note(ctx.resources, job.entrypoint)

    pgq.qm.register_executor("whole executor", Whole(EntrypointExecutorParameters(func=no_handler)))

    @pgq.schedule("async schedule", RARE)
    async def async_tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        note(ctx.resources, schedule.entrypoint)

    @pgq.schedule("sync schedule", RARE)
    def sync_tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        anyio.from_thread.run_sync(note, ctx.resources, schedule.entrypoint)

    @pgq.schedule("schedule by closure", RARE)
    async def closure_tick(schedule: Schedule) -> None:
        note(pgq.resources, schedule.entrypoint)

    def ticking(parameters: ScheduleExecutorParameters) -> AbstractScheduleExecutor:
        return Ticking(parameters)

    @pgq.schedule("schedule's executor", RARE, executor_factory=ticking)
    async def never(schedule: Schedule) -> None:
        raise AssertionError("the executor calls no handler")

    jobs = [
        "async job",
        "sync job",
        "job by get_context",
        "sync job by get_context",
        "job by closure",
        "handler inside of an executor",
        "whole executor",
    ]
    schedules = ["async schedule", "sync schedule", "schedule by closure", "schedule's executor"]
    return jobs, schedules


async def test_everybody_gets_the_very_object(place: Place) -> None:
    notes: Notes[tuple[str, object]] = Notes()
    registry: Any = Registry(notes=notes)
    async with place.open(resources=registry) as pgq:
        assert pgq.resources is registry
        assert pgq.qm.resources is registry
        assert pgq.sm.resources is registry
        jobs, schedules = register_all(pgq)
        expected = {*jobs, *schedules, "executor around it"}
        await pgq.queries.enqueue(jobs * 2)
        await make_due(pgq, *schedules)
        async with running(pgq):
            await notes.until_all(lambda: {who for who, _ in notes.entries} == expected)
            await notes.until(2 * (len(jobs) + 1) + len(schedules))
        # A second run gets it as well.
        await pgq.queries.enqueue(jobs)
        await drain(pgq)
        assert len(notes.entries) == 3 * (len(jobs) + 1) + len(schedules)
        assert all(container is registry for _, container in notes.entries)
        assert pgq.resources is registry
    assert registry.values == {"notes": notes}  # nobody touched it


async def test_two_managers_of_one_application_share_it() -> None:
    async with PgQueuer.open("memory:") as pgq:
        assert pgq.resources is pgq.qm.resources is pgq.sm.resources


async def test_the_context_is_the_same_by_each_way(place: Place) -> None:
    async with place.open() as pgq:
        seen: list[bool] = []

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(pgq.qm.get_context(job.id).resources is ctx.resources)
            seen.append(pgq.qm.get_context(job.id).cancellation is ctx.cancellation)

        await pgq.queries.enqueue("it")
        await drain(pgq)
        assert seen == [True, True]


async def test_a_change_is_seen_by_jobs_that_run_and_by_later_ones(place: Place) -> None:
    resources: dict[str, object] = {"count": 0, "gone": True}
    saw: list[tuple[str, object]] = []
    barrier, changed = Barrier(3), anyio.Event()
    async with place.open(resources=resources) as pgq:

        def look(who: str, ctx: Context | ScheduleContext) -> None:
            saw.append((who, dict(ctx.resources)))

        @pgq.entrypoint("reader")
        async def reader(job: Job, ctx: Context) -> None:
            assert number(ctx.resources, "count") == 0
            await barrier.wait()
            await changed.wait()
            look("reader", ctx)

        @pgq.entrypoint("sync reader")
        def sync_reader(job: Job, ctx: Context) -> None:
            assert number(ctx.resources, "count") == 0
            anyio.from_thread.run(barrier.wait)
            anyio.from_thread.run(changed.wait)
            look("sync reader", ctx)

        @pgq.entrypoint("writer")
        async def writer(job: Job, ctx: Context) -> None:
            await barrier.wait()  # all three run now
            add_one(ctx.resources)
            ctx.resources["new"] = "by a job"
            del ctx.resources["gone"]
            changed.set()

        @pgq.entrypoint("later")
        async def later(job: Job, ctx: Context) -> None:
            look("later", ctx)

        await pgq.queries.enqueue(["reader", "sync reader", "writer"])
        await drain(pgq)
        await pgq.queries.enqueue("later")
        await drain(pgq)
    after = {"count": 1, "new": "by a job"}
    assert sorted(who for who, _ in saw) == ["later", "reader", "sync reader"]
    assert all(view == after for _, view in saw)
    assert resources == after


async def test_a_change_from_outside_is_seen_by_jobs(place: Place) -> None:
    async with place.open(resources={"count": 0}) as pgq:
        seen: Notes[int] = Notes()

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            seen.add(number(ctx.resources, "count"))

        async with running(pgq):
            for wanted in (1, 2):
                add_one(pgq.resources)
                await pgq.queries.enqueue("it")
                assert (await seen.until(wanted))[-1] == wanted


async def test_threads_that_take_a_lock_lose_no_update() -> None:
    """Sync jobs run in parallel, so a plain lock of theirs is one of the two ways to add up."""
    resources: dict[str, object] = {"count": 0}
    lock = threading.Lock()
    manager = QueueManager(InMemoryDriver(), resources=resources)

    @manager.entrypoint("it")
    def handler(job: Job, ctx: Context) -> None:
        for _ in range(50):
            with lock:
                add_one(ctx.resources)

    await manager.queries.enqueue(["it"] * 20)
    await manager.run(mode="drain", handle_signals=False)
    assert resources == {"count": 20 * 50}


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_job_that_fails_leaves_its_changes(place: Place, kind: str) -> None:
    async with place.open(resources={"count": 0}) as pgq:
        if kind == "async":

            @pgq.entrypoint("it")
            async def handler(job: Job, ctx: Context) -> None:
                add_one(ctx.resources)
                raise ValueError("after the change")

        else:

            @pgq.entrypoint("it")
            def sync_handler(job: Job, ctx: Context) -> None:
                add_one(ctx.resources)
                raise ValueError("after the change")

        await pgq.queries.enqueue("it")
        await drain(pgq)
        assert number(pgq.resources, "count") == 1
