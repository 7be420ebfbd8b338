"""Leases and lost connections, on a virtual clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import anyio
import pytest
import trio

from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.model.events import Event, HealthChanged, ScheduleEnded
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.registry import ScheduleRegistry
from tests.scheduler.stores import WatchedStore, add_due, row, rows
from tests.scheduler.virtual import BEGIN, World, make, run

MINUTE = timedelta(minutes=1)
RARE = "0 0 29 2 *"


def test_a_run_that_outlasts_the_lease_keeps_it_by_heartbeats() -> None:
    async def scenario(world: World) -> None:
        watched = WatchedStore(world.store)
        registry, ended = ScheduleRegistry(), anyio.Event()
        runs: list[datetime] = []

        async def long(schedule: Schedule, ctx: ScheduleContext) -> None:
            runs.append(ctx.fire_time)
            await anyio.sleep(300)
            ended.set()

        registry.add("long", RARE, long)
        await add_due(world.store, "long", RARE)
        async with anyio.create_task_group() as tasks:
            for store in (watched, WatchedStore(world.store)):
                tasks.start_soon(make(store, registry).run)
            await ended.wait()
            tasks.cancel_scope.cancel()
        assert len(runs) == 1
        assert 28 <= watched.calls["heartbeat"] <= 31 or not watched.calls["heartbeat"]

    run(scenario)


def test_a_run_whose_heartbeats_fail_for_a_lease_is_cancelled_and_not_run_beside_itself() -> None:
    async def scenario(world: World) -> None:
        watched = WatchedStore(world.store)
        watched.faults["heartbeat"].extend([ConnectionLost("cut")] * 90)
        registry, runs = ScheduleRegistry(), list[tuple[float, float]]()

        async def long(schedule: Schedule) -> None:
            began = anyio.current_time()
            try:
                await anyio.sleep(150)
            finally:
                runs.append((began, anyio.current_time()))

        registry.add("long", RARE, long)
        await add_due(world.store, "long", RARE)
        with anyio.move_on_after(400):
            await make(watched, registry).run()
        assert watched.calls["heartbeat"] > 90
        durations = [ended - began for began, ended in runs]
        assert durations == pytest.approx([30, 30, 150])  # heartbeats fail for about 70 s
        assert all(ended <= began for (_, ended), (began, _) in pairwise(runs))
        assert (await row(world.store)).last_run is not None

    run(scenario)


def test_heartbeats_that_fail_for_less_than_a_lease_are_not_noticed_by_the_run() -> None:
    async def scenario(world: World) -> None:
        watched = WatchedStore(world.store)
        watched.faults["heartbeat"].extend([ConnectionLost("cut")] * 15)
        registry, ended = ScheduleRegistry(), list[Event]()

        async def long(schedule: Schedule) -> None:
            await anyio.sleep(150)

        registry.add("long", RARE, long)
        await add_due(world.store, "long", RARE)
        with anyio.move_on_after(400):
            await make(watched, registry, ended.append).run()
        (only,) = [event for event in ended if isinstance(event, ScheduleEnded)]
        assert only.error is None

    run(scenario)


@pytest.mark.parametrize("outage", [1, 4, 6, 60])
def test_an_outage_at_the_end_of_a_run_does_not_make_it_run_again(outage: float) -> None:
    async def scenario(world: World) -> None:
        watched, registry = WatchedStore(world.store), ScheduleRegistry()
        ran = list[datetime]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append(ctx.fire_time)
            watched.faults["finish"].extend([ConnectionLost("down")] * 1000)

        registry.add("work", RARE, work)
        await add_due(world.store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            for store in (watched, WatchedStore(world.store)):
                await tasks.start(make(store, registry).run)
            await anyio.sleep(outage)
            watched.faults["finish"].clear()
            await anyio.sleep(120)
            tasks.cancel_scope.cancel()
        assert len(ran) == 1

    run(scenario)


def test_the_fire_of_a_dead_worker_is_run_again_after_its_lease() -> None:
    async def scenario(world: World) -> None:
        registry = ScheduleRegistry()
        ran: list[tuple[datetime, datetime]] = []

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append((ctx.fire_time, world.now()))

        registry.add("work", "0 * * * *", work)
        fire_time = datetime(2025, 3, 1, 0, 0, tzinfo=UTC)
        await add_due(world.store, "work", "0 * * * *", ago=timedelta(seconds=30))
        dead = await world.store.claim(
            await row(world.store), next_run=fire_time + 60 * MINUTE, heartbeat_timeout=30
        )
        assert dead is not None
        with anyio.move_on_after(600):
            await make(world, registry).run()
        ((again, at),) = ran
        assert again == fire_time
        assert timedelta(seconds=30) < at - dead.heartbeat < timedelta(seconds=31)
        after = await row(world.store)
        assert (after.status, after.next_run) == ("queued", fire_time + 60 * MINUTE)
        assert not await world.store.finish(dead)  # the fence: the dead one's claim is over

    run(scenario)


def test_losing_the_lease_cancels_the_run() -> None:
    async def scenario(world: World) -> None:
        registry, events = ScheduleRegistry(), list[Event]()
        started, cancelled = trio.Event(), trio.Event()

        async def work(schedule: Schedule) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        registry.add("work", RARE, work)
        await add_due(world.store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            one = make(world, registry, events.append)
            await tasks.start(one.run)
            await started.wait()
            await world.store.delete(entrypoints=["work"])
            with anyio.fail_after(15):
                await cancelled.wait()
            one.stop()
        (ended,) = events
        assert isinstance(ended, ScheduleEnded)
        assert "lease on schedule 'work' was lost" in str(ended.error)
        assert await rows(world.store) == []

    run(scenario)


@pytest.mark.parametrize("operation", ["snapshot", "add", "claim", "finish", "heartbeat"])
@pytest.mark.parametrize("failures", [1, 4])
@pytest.mark.parametrize(
    "error", [ConnectionLost("cut"), StoreError("deadlock", retryable=True)]
)  # fmt: skip
@pytest.mark.parametrize("when", ["before", "reply lost"])
def test_a_lost_connection_is_waited_out(
    operation: str, failures: int, error: StoreError, when: str
) -> None:
    if (when, operation) == ("reply lost", "claim"):
        failures = 1  # each one costs a lease of 30 s: nobody knows that he has the row

    async def scenario(world: World) -> None:
        watched, events = WatchedStore(world.store), list[Event]()
        (watched.faults if when == "before" else watched.lost_replies)[operation].extend(
            [error] * failures
        )
        registry = ScheduleRegistry()
        ran: list[datetime] = []

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            ran.append(ctx.fire_time)
            await anyio.sleep(12)

        registry.add("work", "* * * * *", work)
        with anyio.move_on_after(200):
            await make(watched, registry, events.append).run()
        first = BEGIN.replace(second=0, microsecond=0) + MINUTE
        assert ran == [first, first + MINUTE, first + 2 * MINUTE]
        changes = [event for event in events if isinstance(event, HealthChanged)]
        assert changes[0] == HealthChanged("scheduler", str(error))
        assert changes[-1] == HealthChanged("scheduler", None)
        assert (await row(world.store)).status == "queued"

    run(scenario)


def test_a_long_outage_costs_a_bounded_number_of_tries() -> None:
    async def scenario(world: World) -> None:
        watched = WatchedStore(world.store)
        registry, ran = ScheduleRegistry(), list[datetime]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append(ctx.fire_time)

        registry.add("work", "0 * * * *", work)
        async with anyio.create_task_group() as tasks:
            await tasks.start(make(watched, registry).run)
            await anyio.sleep(1800)
            before = watched.calls["snapshot"]
            watched.faults["snapshot"].extend([ConnectionLost("down")] * 1000)
            await anyio.sleep(3600)
            tries = watched.calls["snapshot"] - before
            assert ran == []
            watched.faults["snapshot"].clear()
            await anyio.sleep(6)
            tasks.cancel_scope.cancel()
        assert 700 < tries < 1600  # every 2.5 to 5 s
        assert ran == [datetime(2025, 3, 1, 1, 0, tzinfo=UTC)]

    run(scenario)


def test_a_cancellation_during_an_outage_is_not_held_up_for_long() -> None:
    async def scenario(world: World) -> None:
        watched = WatchedStore(world.store)
        registry, started = ScheduleRegistry(), trio.Event()

        async def work(schedule: Schedule) -> None:
            started.set()
            await anyio.sleep_forever()

        registry.add("work", RARE, work)
        await add_due(world.store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            await tasks.start(make(watched, registry).run)
            await started.wait()
            watched.faults["finish"].extend([ConnectionLost("down")] * 1000)
            began = anyio.current_time()
            tasks.cancel_scope.cancel()
        assert anyio.current_time() - began <= 5.1

    run(scenario)
