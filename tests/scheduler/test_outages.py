"""Leases and lost connections, on a virtual clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import anyio
import pytest

from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.model.events import Event, HealthChanged, ScheduleEnded
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.testing import BACKENDS, Backend, Call, LostPart, UnreliableDriver
from tests.scheduler.tools import BEGIN, World, add_due, row, rows, run, scheduler

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

MINUTE = timedelta(minutes=1)
RARE = "0 0 29 2 *"


def test_a_run_that_outlasts_the_lease_keeps_it_by_heartbeats(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        watched = UnreliableDriver(world.driver)
        registry, ended = ScheduleRegistry(), anyio.Event()
        runs: list[datetime] = []

        async def long(schedule: Schedule, ctx: ScheduleContext) -> None:
            runs.append(ctx.fire_time)
            await anyio.sleep(300)
            ended.set()

        registry.add("long", RARE, long)
        await add_due(world.store, "long", RARE)
        async with anyio.create_task_group() as tasks:
            for store in (watched, UnreliableDriver(world.driver)):
                tasks.start_soon(scheduler(store, registry).run)
            await ended.wait()
            tasks.cancel_scope.cancel()
        assert len(runs) == 1
        assert 28 <= watched.calls["heartbeat"] <= 31 or not watched.calls["heartbeat"]

    run(backend, scenario)


def test_a_run_whose_heartbeats_fail_for_a_lease_is_cancelled_and_not_run_beside_itself(
    backend: Backend,
) -> None:
    async def scenario(world: World) -> None:
        watched = UnreliableDriver(world.driver)
        watched.lose("heartbeat", "request", times=90)
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
            await scheduler(watched, registry).run()
        assert watched.calls["heartbeat"] > 90
        durations = [ended - began for began, ended in runs]
        assert durations == pytest.approx([30, 30, 150])  # heartbeats fail for about 70 s
        assert all(ended <= began for (_, ended), (began, _) in pairwise(runs))
        assert (await row(world.store)).last_run is not None

    run(backend, scenario)


def test_heartbeats_that_fail_for_less_than_a_lease_are_not_noticed_by_the_run(
    backend: Backend,
) -> None:
    async def scenario(world: World) -> None:
        watched = UnreliableDriver(world.driver)
        watched.lose("heartbeat", "request", times=15)
        registry, ended = ScheduleRegistry(), list[Event]()

        async def long(schedule: Schedule) -> None:
            await anyio.sleep(150)

        registry.add("long", RARE, long)
        await add_due(world.store, "long", RARE)
        with anyio.move_on_after(400):
            await scheduler(watched, registry, ended.append).run()
        (only,) = [event for event in ended if isinstance(event, ScheduleEnded)]
        assert only.error is None

    run(backend, scenario)


@pytest.mark.parametrize("outage", [1, 4, 6, 60])
def test_an_outage_at_the_end_of_a_run_does_not_make_it_run_again(
    backend: Backend, outage: float
) -> None:
    async def scenario(world: World) -> None:
        watched, registry = UnreliableDriver(world.driver), ScheduleRegistry()
        ran = list[datetime]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append(ctx.fire_time)
            watched.before = refuse

        async def refuse(call: Call) -> None:
            await anyio.lowlevel.checkpoint()
            if call.name == "finish":
                raise ConnectionLost("down")

        registry.add("work", RARE, work)
        await add_due(world.store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            for store in (watched, UnreliableDriver(world.driver)):
                await tasks.start(scheduler(store, registry).run)
            await anyio.sleep(outage)
            watched.before = None
            await anyio.sleep(120)
            tasks.cancel_scope.cancel()
        assert len(ran) == 1

    run(backend, scenario)


def test_the_fire_of_a_dead_worker_is_run_again_after_its_lease(backend: Backend) -> None:
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
            await scheduler(world, registry).run()
        ((again, at),) = ran
        assert again == fire_time
        assert timedelta(seconds=30) < at - dead.heartbeat < timedelta(seconds=31)
        after = await row(world.store)
        assert (after.status, after.next_run) == ("queued", fire_time + 60 * MINUTE)
        assert not await world.store.finish(dead)  # the fence: the dead one's claim is over

    run(backend, scenario)


def test_losing_the_lease_cancels_the_run(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        registry, events = ScheduleRegistry(), list[Event]()
        started, cancelled = anyio.Event(), anyio.Event()

        async def work(schedule: Schedule) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        registry.add("work", RARE, work)
        await add_due(world.store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            one = scheduler(world, registry, events.append)
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

    run(backend, scenario)


@pytest.mark.parametrize("operation", ["snapshot", "add", "claim", "finish", "heartbeat"])
@pytest.mark.parametrize("failures", [1, 4])
@pytest.mark.parametrize(
    "error", [ConnectionLost("cut"), StoreError("deadlock", retryable=True)]
)  # fmt: skip
@pytest.mark.parametrize("part", ["request", "reply"])
def test_a_lost_connection_is_waited_out(
    backend: Backend, operation: str, failures: int, error: StoreError, part: LostPart
) -> None:
    if (part, operation) == ("reply", "claim"):
        failures = 1  # each one costs a lease of 30 s: nobody knows that he has the row

    async def scenario(world: World) -> None:
        watched, events = UnreliableDriver(world.driver), list[Event]()
        watched.fail(operation, error, part, times=failures)
        registry = ScheduleRegistry()
        ran: list[datetime] = []

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            ran.append(ctx.fire_time)
            await anyio.sleep(12)

        registry.add("work", "* * * * *", work)
        with anyio.move_on_after(200):
            await scheduler(watched, registry, events.append).run()
        first = BEGIN.replace(second=0, microsecond=0) + MINUTE
        assert ran == [first, first + MINUTE, first + 2 * MINUTE]
        changes = [event for event in events if isinstance(event, HealthChanged)]
        assert changes[0] == HealthChanged("scheduler", str(error))
        assert changes[-1] == HealthChanged("scheduler", None)
        assert (await row(world.store)).status == "queued"

    run(backend, scenario)


def test_a_long_outage_costs_a_bounded_number_of_tries(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        watched = UnreliableDriver(world.driver)
        registry, ran = ScheduleRegistry(), list[datetime]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            await anyio.lowlevel.checkpoint()
            ran.append(ctx.fire_time)

        registry.add("work", "0 * * * *", work)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(watched, registry).run)
            await anyio.sleep(1800)
            before = watched.calls["snapshot"]
            watched.cut()
            await anyio.sleep(3600)
            tries = watched.calls["snapshot"] - before
            assert ran == []
            watched.mend()
            await anyio.sleep(6)
            tasks.cancel_scope.cancel()
        assert 700 < tries < 1600  # every 2.5 to 5 s
        assert ran == [datetime(2025, 3, 1, 1, 0, tzinfo=UTC)]

    run(backend, scenario)


def test_a_cancellation_during_an_outage_is_not_held_up_for_long(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        watched = UnreliableDriver(world.driver)
        registry, started = ScheduleRegistry(), anyio.Event()

        async def work(schedule: Schedule) -> None:
            started.set()
            await anyio.sleep_forever()

        registry.add("work", RARE, work)
        await add_due(world.store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(watched, registry).run)
            await started.wait()
            watched.cut()
            began = anyio.current_time()
            tasks.cancel_scope.cancel()
        assert anyio.current_time() - began <= 5.1

    run(backend, scenario)
