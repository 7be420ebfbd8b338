"""The scheduler over hours and days on a virtual clock: policies, idleness, clock jumps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import anyio
import pytest

from pgq_trio.model.events import Event, ScheduleEnded, ScheduleSkipped
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.testing import BACKENDS, Backend, Call, UnreliableDriver
from pgq_trio.types import Misfire
from tests.scheduler.tools import BEGIN, World, add_due, row, rows, run, scheduler, unique

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

MINUTE = timedelta(minutes=1)
RARE = "0 0 29 2 *"


def test_thirty_days_of_three_schedules_pass_in_moments(backend: Backend) -> None:
    fired: dict[str, list[datetime]] = {"hourly": [], "daily": [], "quarter": []}
    late: list[float] = []

    async def scenario(world: World) -> None:
        registry = ScheduleRegistry()

        async def note(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            fired[schedule.entrypoint].append(ctx.fire_time)
            late.append((world.now() - ctx.fire_time).total_seconds())

        registry.add("hourly", "0 * * * *", note)
        registry.add("daily", "30 4 * * *", note, timezone="Europe/Berlin")
        registry.add("quarter", "*/15 8-17 * * mon-fri", note)
        one = scheduler(world, registry)
        with anyio.move_on_after(30 * 24 * 3600):
            await one.run()
        assert not one.failures

    run(backend, scenario)
    assert len(fired["hourly"]) == 30 * 24
    assert len(fired["daily"]) == 30
    assert len(fired["quarter"]) == 20 * 40  # twenty working days in those thirty
    assert {at.hour for at in fired["daily"]} == {2, 3}  # summer time began on the 30th
    assert all(unique(times) for times in fired.values())
    assert min(late) >= 0
    assert max(late) <= 0.05


def test_an_idle_scheduler_looks_once_a_minute_and_once_around_each_fire(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        watched, ran = UnreliableDriver(world.driver), list[Schedule]()
        registry = ScheduleRegistry()

        async def note(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append(schedule)

        registry.add("hourly", "0 * * * *", note)
        registry.add("rare", RARE, note)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(watched, registry).run)
            await anyio.sleep(10 * 3600)
            tasks.cancel_scope.cancel()
        assert watched.calls["claim"] == watched.calls["finish"] == len(ran) == 10
        assert watched.calls["snapshot"] <= 600 + 10 + 2
        assert watched.calls["heartbeat"] == 0

    run(backend, scenario)


@pytest.mark.parametrize("misfire", ["last", "skip", "all"])
def test_a_schedule_that_still_runs_skips_its_fire_times(
    backend: Backend, misfire: Misfire
) -> None:
    ran: list[tuple[datetime, int]] = []
    events: list[Event] = []

    async def scenario(world: World) -> None:
        watched, registry = UnreliableDriver(world.driver), ScheduleRegistry()

        async def slow(schedule: Schedule, ctx: ScheduleContext) -> None:
            ran.append((ctx.fire_time, ctx.missed))
            await anyio.sleep(210)

        registry.add("slow", "* * * * *", slow, misfire=misfire)
        fleet = [scheduler(watched, registry, events.append) for _ in range(3)]
        with anyio.move_on_after(600):
            async with anyio.create_task_group() as tasks:
                for one in fleet:
                    tasks.start_soon(one.run)
        assert watched.calls["claim"] <= 3 * 3  # of each worker for each fire, but no more
        # An overdue row that another one runs is looked at every 5 s.
        assert watched.calls["snapshot"] < 2 * 600 / 5 + 50
        assert sum((one.skipped for one in fleet), Counter()) == {"slow": 2 * 3}

    run(backend, scenario)
    first = BEGIN.replace(second=0, microsecond=0) + MINUTE
    # From 1:00 to 4:30, from 5:00 to 8:30, and from 9:00.
    assert ran == [(first, 0), (first + 4 * MINUTE, 0), (first + 8 * MINUTE, 0)]
    skipped = [event for event in events if isinstance(event, ScheduleSkipped)]
    assert [(event.count, event.schedule.next_run) for event in skipped] == [
        (3, first + 4 * MINUTE),
        (3, first + 8 * MINUTE),
    ]


def test_missed_fire_times_are_made_up_but_not_those_that_come_meanwhile(backend: Backend) -> None:
    ran: list[datetime] = []

    async def scenario(world: World) -> None:
        registry = ScheduleRegistry()

        async def slow(schedule: Schedule, ctx: ScheduleContext) -> None:
            ran.append(ctx.fire_time)
            await anyio.sleep(150)

        registry.add("slow", "* * * * *", slow, misfire="all")
        await add_due(world.store, "slow", "* * * * *", ago=timedelta(seconds=150))
        one = scheduler(world, registry)
        with anyio.move_on_after(600):
            await one.run()
        assert one.skipped == {"slow": 8}

    run(backend, scenario)
    now = BEGIN.replace(second=0, microsecond=0)
    # Three were missed; making up for them takes until 8:00:30, and the next one is at 9:00.
    assert ran == [now - 2 * MINUTE, now - MINUTE, now, now + 9 * MINUTE]


def test_stop_ends_the_claims_that_wait_for_their_turn(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        watched, registry = UnreliableDriver(world.driver), ScheduleRegistry()

        async def work(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()

        for n in range(50):
            registry.add(f"work {n}", RARE, work)
            await add_due(world.store, f"work {n}", RARE)
        one = scheduler(watched, registry)

        async def stop(call: Call) -> None:
            await anyio.lowlevel.checkpoint()
            if call.name == "claim":
                one.stop()

        watched.before = stop
        with anyio.fail_after(60):
            await one.run()
        assert watched.calls["claim"] <= 4
        assert {one.status for one in await rows(world.store)} == {"queued"}

    run(backend, scenario)


def test_a_row_made_due_by_hand_is_found_within_a_minute(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        registry, ran = ScheduleRegistry(), anyio.Event()

        async def work(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()
            ran.set()

        registry.add("work", RARE, work)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(world, registry).run)
            await anyio.sleep(90)
            await world.store.delete(entrypoints=["work"])
            await add_due(world.store, "work", RARE)
            with anyio.fail_after(61):
                await ran.wait()
            tasks.cancel_scope.cancel()

    run(backend, scenario)


@pytest.mark.parametrize("jump", [-7200, -59, -1, 1, 59, 7200])
@pytest.mark.parametrize("at", [0.5, 29.7, 29.75, 61])
def test_a_jump_of_the_stores_clock_fires_nothing_twice(
    backend: Backend, jump: float, at: float
) -> None:
    async def scenario(world: World) -> None:
        registry, ran = ScheduleRegistry(), list[tuple[datetime, datetime]]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append((ctx.fire_time, schedule.updated))

        registry.add("work", "* * * * *", work, misfire="all")
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                await tasks.start(scheduler(world, registry).run)
            await anyio.sleep(at)
            world.shift += timedelta(seconds=jump)
            await anyio.sleep(7200 + 180)
            tasks.cancel_scope.cancel()
        times = [fire_time for fire_time, _ in ran]
        assert unique(times)
        assert times == sorted(times)
        assert all(claimed >= fire_time for fire_time, claimed in ran)
        assert times[-1] >= (world.now() - 2 * MINUTE).replace(second=0, microsecond=0)

    run(backend, scenario)


def test_all_runs_every_missed_fire_time_and_then_keeps_up(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        registry, ran = ScheduleRegistry(), list[datetime]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.sleep(1)
            ran.append(ctx.fire_time)

        registry.add("work", "* * * * *", work, misfire="all", misfire_grace=600)
        await add_due(world.store, "work", "* * * * *", ago=timedelta(hours=1))
        with anyio.move_on_after(65):
            await scheduler(world, registry).run()
        first = BEGIN.replace(second=0, microsecond=0) - 9 * MINUTE
        assert ran == [first + n * MINUTE for n in range(11)]

    run(backend, scenario)


def test_many_schedules_of_one_minute_are_all_on_time(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        registry, ran = ScheduleRegistry(), list[str]()

        async def work(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append(schedule.entrypoint)

        for n in range(200):
            registry.add(f"work {n}", "* * * * *", work)
        with anyio.move_on_after(29.8):
            await scheduler(world, registry).run()
        assert sorted(ran) == sorted(entry.name for entry in registry)

    run(backend, scenario)


def test_a_run_that_is_over_is_told_with_its_duration(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        registry, events = ScheduleRegistry(), list[Event]()

        async def work(schedule: Schedule) -> None:
            await anyio.sleep(7)

        registry.add("work", "* * * * *", work)
        with anyio.move_on_after(40):
            await scheduler(world, registry, events.append).run()
        (ended,) = events
        assert isinstance(ended, ScheduleEnded)
        assert ended.seconds == pytest.approx(7)
        assert ended.error is None
        after = await row(world.store)
        assert replace(ended.schedule, status="queued").next_run == after.next_run

    run(backend, scenario)
