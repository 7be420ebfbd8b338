"""How runs of a schedule end: stopped, interrupted, cancelled; on both stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import anyio
from anyio.abc import TaskGroup

from pgq_trio.abc import ScheduleStore
from pgq_trio.model.events import Event, ScheduleEnded
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from tests.scheduler.tools import Log, add_due, row, scheduler

EVERY_SECOND = "* * * * * *"
#: Fires on leap days, so in a test only when its row was made due.
RARE = "0 0 29 2 *"

#: What a test may take in all; nothing waits for it to pass.
PATIENCE = 20.0
#: The promise is 50 ms; a loaded machine that runs the tests gets more before it fails them.
LATE = timedelta(milliseconds=500)


async def running(
    store: ScheduleStore, tasks: TaskGroup, handler: Callable[[], object] | None = None
) -> Scheduler:
    """Start a scheduler and return when its only handler runs."""
    registry = ScheduleRegistry()
    started = anyio.Event()

    async def work(schedule: Schedule) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            if handler is not None:
                handler()

    registry.add("work", RARE, work)
    one = scheduler(store, registry)
    await tasks.start(one.run)
    await started.wait()
    return one


async def test_an_interrupted_fire_is_queued_again_and_runs_elsewhere(
    store: ScheduleStore,
) -> None:
    fire_time = await add_due(store, "work", RARE)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await running(store, tasks)
            tasks.cancel_scope.cancel()
    after = await row(store)
    assert (after.status, after.next_run, after.last_run) == ("queued", fire_time, None)

    again = list[datetime]()
    registry = ScheduleRegistry()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        again.append(ctx.fire_time)
        one.stop()

    registry.add("work", RARE, work)
    one = scheduler(store, registry)
    with anyio.fail_after(PATIENCE):
        await one.run()
    assert again == [fire_time]


async def test_a_handler_that_answers_cancellation_with_an_error_is_interrupted_too(
    store: ScheduleStore,
) -> None:
    def raising() -> None:
        raise ValueError("while cleaning up")

    fire_time = await add_due(store, "work", RARE)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            one = await running(store, tasks, raising)
            tasks.cancel_scope.cancel()
    after = await row(store)
    assert (after.status, after.next_run) == ("queued", fire_time)
    assert one.failures["work"] == 1


async def test_errors_beside_the_cancellation_in_a_handlers_own_group_stay_in_its_task(
    store: ScheduleStore,
) -> None:
    started = anyio.Event()
    registry = ScheduleRegistry()

    async def rude() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in a child")

    async def work(schedule: Schedule) -> None:
        async with anyio.create_task_group() as children:
            children.start_soon(rude)
            children.start_soon(anyio.sleep_forever)
            started.set()

    registry.add("work", RARE, work)
    fire_time = await add_due(store, "work", RARE)
    one = scheduler(store, registry)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(one.run)
            await started.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    after = await row(store)
    assert (after.status, after.next_run) == ("queued", fire_time)
    assert one.failures["work"] == 1


async def test_stop_lets_running_fires_end_and_starts_no_more(store: ScheduleStore) -> None:
    started, release, log = anyio.Event(), anyio.Event(), Log()
    registry = ScheduleRegistry()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        started.set()
        await release.wait()
        log.add(ctx.fire_time)

    registry.add("work", EVERY_SECOND, work)
    await add_due(store, "work", EVERY_SECOND)
    one = scheduler(store, registry)
    ended = anyio.Event()

    async def run() -> None:
        await one.run()
        ended.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            one.stop()
            one.stop()
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
            release.set()
    assert len(log.entries) == 1
    assert (await row(store)).status == "queued"


async def test_a_scheduler_stopped_before_it_runs_fires_nothing(store: ScheduleStore) -> None:
    registry, ran = ScheduleRegistry(), list[Schedule]()
    registry.add("work", RARE, ran.append)
    await add_due(store, "work", RARE)
    one = scheduler(store, registry)
    one.stop()
    with anyio.fail_after(PATIENCE):
        await one.run()
    assert ran == []
    assert (await row(store)).status == "queued"


async def test_a_fire_may_cancel_itself(store: ScheduleStore) -> None:
    registry, events = ScheduleRegistry(), list[Event]()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        one.stop()
        ctx.cancellation.cancel()
        await anyio.sleep_forever()

    registry.add("work", RARE, work)
    await add_due(store, "work", RARE)
    one = scheduler(store, registry, events.append)
    with anyio.fail_after(PATIENCE):
        await one.run()
    after = await row(store)
    assert after.status == "queued"
    assert after.last_run is not None
    assert [type(event) for event in events] == [ScheduleEnded]
