"""Schedules fire on time, once, and whatever their handlers do; on both stores."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import anyio
import pytest

from pgq_trio.abc import Driver, NewSchedule, ScheduleStore
from pgq_trio.errors import PgqError, StoreError
from pgq_trio.executors import AbstractScheduleExecutor, ScheduleExecutorParameters
from pgq_trio.model.events import Event, ScheduleEnded, ScheduleSkipped
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.testing import UnreliableDriver
from tests.scheduler.tools import Log, add_due, now, row, rows, scheduler, unique

EVERY_SECOND = "* * * * * *"
#: Fires on leap days, so in a test only when its row was made due.
RARE = "0 0 29 2 *"

#: What a test may take in all; nothing waits for it to pass.
PATIENCE = 20.0
#: The promise is 50 ms; a loaded machine that runs the tests gets more before it fails them.
LATE = timedelta(milliseconds=500)


async def test_a_schedule_fires_at_its_time_never_early(store: ScheduleStore) -> None:
    log, seen = Log(), list[tuple[datetime, datetime]]()
    registry = ScheduleRegistry()

    async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        seen.append((ctx.fire_time, await now(store)))
        log.add(ctx.fire_time)

    registry.add("tick", EVERY_SECOND, tick)
    began = await now(store)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            one = scheduler(store, registry)
            await tasks.start(one.run)
            await log.until(3)
            one.stop()
    assert began < seen[0][0] <= began + timedelta(seconds=2)
    for (fire_time, at), expected in zip(seen, _seconds_from(seen[0][0]), strict=False):
        assert fire_time == expected
        assert timedelta(0) <= at - fire_time < LATE


def _seconds_from(first: datetime) -> list[datetime]:
    return [first + timedelta(seconds=n) for n in range(10)]


async def test_each_fire_time_is_fired_once_by_five_schedulers(store: ScheduleStore) -> None:
    log = Log()
    registry = ScheduleRegistry()

    async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("tick", EVERY_SECOND, tick, misfire="all")
    await add_due(store, "tick", EVERY_SECOND, ago=timedelta(seconds=20))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            fleet = [scheduler(store, registry) for _ in range(5)]
            for one in fleet:
                await tasks.start(one.run)
            await log.until(22)
            for one in fleet:
                one.stop()
    assert unique(log.entries)
    assert log.entries == sorted(log.entries)
    assert log.entries[-1] - log.entries[0] == timedelta(seconds=len(log.entries) - 1)
    assert len(await rows(store)) == 1


async def test_an_error_stops_neither_the_schedule_nor_the_others(
    store: ScheduleStore, caplog: pytest.LogCaptureFixture
) -> None:
    log, events = Log(), list[Event]()
    registry = ScheduleRegistry()
    error = ValueError("no")

    async def broken(schedule: Schedule) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    async def fine(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("broken", EVERY_SECOND, broken)
    registry.add("fine", EVERY_SECOND, fine)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            one = scheduler(store, registry, events.append)
            await tasks.start(one.run)
            await log.until(2)
            one.stop()
    assert one.failures["broken"] >= 1
    assert one.failures["fine"] == 0
    ended = [event for event in events if isinstance(event, ScheduleEnded)]
    assert {event.schedule.entrypoint for event in ended} == {"broken", "fine"}
    assert all((event.error is error) == (event.schedule.entrypoint == "broken") for event in ended)
    records = [record for record in caplog.records if record.name == "pgq_trio.scheduler"]
    assert any(record.exc_info and record.exc_info[1] is error for record in records)
    assert {schedule.status for schedule in await rows(store)} == {"queued"}


async def test_missed_fire_times_are_answered_by_one_run(store: ScheduleStore) -> None:
    ran = list[tuple[datetime, int, datetime]]()
    registry = ScheduleRegistry()

    async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        ran.append((ctx.fire_time, ctx.missed, schedule.next_run))
        one.stop()

    registry.add("tick", "*/10 * * * *", tick)
    await add_due(store, "tick", "*/10 * * * *", ago=timedelta(hours=2))
    one = scheduler(store, registry)
    with anyio.fail_after(PATIENCE):
        await one.run()
    ((fire_time, missed, next_run),) = ran
    assert missed in {11, 12}  # twelve in two hours, and one more on the full ten minutes
    assert timedelta(0) <= await now(store) - fire_time < timedelta(minutes=10)
    assert next_run == fire_time + timedelta(minutes=10)
    after = await row(store)
    assert (after.status, after.next_run) == ("queued", next_run)
    assert after.last_run is not None


async def test_skip_leaves_missed_fire_times_out(driver: Driver, store: ScheduleStore) -> None:
    registry = ScheduleRegistry()
    watched = UnreliableDriver(driver)
    finish = watched.hold("finish")
    ran = list[Schedule]()
    registry.add("tick", RARE, ran.append, misfire="skip", misfire_grace=3600)
    await add_due(store, "tick", RARE, ago=timedelta(hours=2))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            one = scheduler(watched, registry)
            await tasks.start(one.run)
            await finish.until_arrived()
            finish.release()
            one.stop()
    after = await row(store)
    assert ran == []
    assert (after.status, after.last_run) == ("queued", None)
    assert after.next_run > await now(store)


async def test_fire_times_that_come_during_a_run_are_skipped_and_counted(
    store: ScheduleStore,
) -> None:
    ran, events = list[datetime](), list[Event]()
    registry = ScheduleRegistry()

    async def slow(schedule: Schedule, ctx: ScheduleContext) -> None:
        ran.append(ctx.fire_time)
        if len(ran) == 2:
            one.stop()
        else:
            while await now(store) < ctx.fire_time + timedelta(seconds=2.2):
                await anyio.sleep(0.1)

    registry.add("slow", EVERY_SECOND, slow, misfire="all")
    one = scheduler(store, registry, events.append)
    with anyio.fail_after(PATIENCE):
        await one.run()
    (skipped,) = [event for event in events if isinstance(event, ScheduleSkipped)]
    assert one.skipped["slow"] == skipped.count >= 2
    assert ran[1] - ran[0] == timedelta(seconds=skipped.count + 1)
    assert skipped.schedule.next_run == ran[1]
    assert skipped.schedule.status == "queued"


async def test_handlers_get_the_very_resources_and_plain_defs_run_in_a_thread(
    store: ScheduleStore,
) -> None:
    registry = ScheduleRegistry()
    resources: dict[str, object] = {"log": []}
    seen = list[object]()

    def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        seen.extend((ctx.resources, threading.current_thread()))
        anyio.from_thread.run_sync(one.stop)

    registry.add("tick", RARE, tick)
    await add_due(store, "tick", RARE)
    one = Scheduler(store, registry, resources=resources)
    with anyio.fail_after(PATIENCE):
        await one.run()
    assert seen[0] is resources
    assert seen[1] is not threading.current_thread()


async def test_a_custom_executor_gets_the_schedule_and_the_context(store: ScheduleStore) -> None:
    got = list[object]()

    class Mine(AbstractScheduleExecutor):
        async def execute(self, schedule: Schedule, context: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            got.extend((self.parameters, schedule.entrypoint, context.resources["x"]))
            one.stop()

    registry = ScheduleRegistry()
    made = list[ScheduleExecutorParameters]()

    def factory(parameters: ScheduleExecutorParameters) -> Mine:
        made.append(parameters)
        return Mine(parameters)

    registry.add("tick", RARE, got.append, executor_factory=factory)
    await add_due(store, "tick", RARE)
    one = scheduler(store, registry, x=1)
    with anyio.fail_after(PATIENCE):
        await one.run()
    assert got == [made[0], "tick", 1]


async def test_other_rows_are_left_alone_and_clean_old_deletes_only_what_is_outdated(
    store: ScheduleStore,
) -> None:
    at = await now(store) + timedelta(days=1)
    await store.add(
        [
            NewSchedule("mine", "5 5 * * *", at),
            NewSchedule("mine", RARE, at),
            NewSchedule("kept", "5 5 * * *", at),
            NewSchedule("elsewhere", "5 5 * * *", at),
        ]
    )
    before = {(x.entrypoint, x.expression): x for x in await rows(store)}
    registry, ran = ScheduleRegistry(), list[Schedule]()
    registry.add("mine", RARE, ran.append, clean_old=True)
    registry.add("mine", "7 7 * * *", ran.append)
    registry.add("kept", RARE, ran.append)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            one = scheduler(store, registry)
            await tasks.start(one.run)
            one.stop()
    after = {(x.entrypoint, x.expression): x for x in await rows(store)}
    assert set(after) == {
        ("mine", RARE),
        ("mine", "7 7 * * *"),
        ("kept", "5 5 * * *"),
        ("kept", RARE),
        ("elsewhere", "5 5 * * *"),
    }
    assert after["mine", RARE] == before["mine", RARE]


async def test_without_schedules_it_runs_until_stopped_and_asks_nothing(driver: Driver) -> None:
    watched = UnreliableDriver(driver)
    one = scheduler(watched, ScheduleRegistry())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(one.run)
            await anyio.wait_all_tasks_blocked()
            one.stop()
    assert not watched.calls


@pytest.mark.parametrize("operation", ["snapshot", "add", "claim", "finish"])
async def test_what_the_store_refuses_for_good_ends_the_run_as_itself(
    driver: Driver, store: ScheduleStore, operation: str
) -> None:
    watched = UnreliableDriver(driver)
    error = StoreError("refused")
    watched.fail(operation, error)
    registry, ran = ScheduleRegistry(), list[Schedule]()
    registry.add("work", RARE, ran.append)
    registry.add("other", RARE, ran.append)
    await add_due(store, "work", RARE)
    with anyio.fail_after(PATIENCE), pytest.raises(PgqError) as caught:
        await scheduler(watched, registry).run()
    assert caught.value is error
