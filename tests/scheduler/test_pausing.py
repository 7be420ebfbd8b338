"""Pausing, resuming and triggering schedules that schedulers serve, on a virtual clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import anyio
import pytest

from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.testing import BACKENDS, Backend, UnreliableDriver
from pgq_trio.types import Misfire
from tests.scheduler.tools import BEGIN, World, row, run, scheduler

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

MINUTE = timedelta(minutes=1)
#: The first fire time of a schedule that fires every minute.
FIRST = BEGIN.replace(second=0, microsecond=0) + MINUTE
RARE = "0 0 29 2 *"
POLICIES = pytest.mark.parametrize("misfire", ["last", "skip", "all"])


class Fleet:
    """Two schedulers for one schedule, and what they ran."""

    def __init__(
        self, world: World, *, expression: str = "* * * * *", misfire: Misfire, seconds: float = 0
    ) -> None:
        self.ran: list[tuple[datetime, int]] = []
        self.began: list[datetime] = []
        self.at_once = 0
        self._now = world.now
        self._seconds = seconds
        self._registry = ScheduleRegistry()
        self._registry.add("work", expression, self._work, misfire=misfire)
        self.store = world.store
        self.schedulers: list[Scheduler] = [scheduler(world, self._registry) for _ in range(2)]

    async def _work(self, _: Schedule, ctx: ScheduleContext) -> None:
        self.at_once += 1
        assert self.at_once == 1
        self.ran.append((ctx.fire_time, ctx.missed))
        self.began.append(self._now())
        try:
            await anyio.sleep(self._seconds)
        finally:
            self.at_once -= 1

    @property
    def fired(self) -> list[datetime]:
        """The fire times that were run."""
        return [fire_time for fire_time, _ in self.ran]

    def notify(self) -> None:
        """What the listener of each process does when it hears of a change."""
        for one in self.schedulers:
            one.notify()

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start all."""
        for one in self.schedulers:
            await tasks.start(one.run)


@POLICIES
def test_what_is_missed_in_a_pause_is_up_to_the_policy(backend: Backend, misfire: Misfire) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire=misfire)
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            await anyio.sleep(40)
            assert fleet.ran == [(FIRST, 0)]
            await fleet.store.pause(entrypoints=["work"])
            fleet.notify()
            await anyio.sleep(210)
            assert fleet.ran == [(FIRST, 0)]
            await fleet.store.resume(entrypoints=["work"])
            fleet.notify()
            await anyio.sleep(5)  # it is 4:45 now
            missed = {
                "last": [(FIRST + 3 * MINUTE, 2)],
                "skip": [],
                "all": [(FIRST + n * MINUTE, 0) for n in (1, 2, 3)],
            }[misfire]
            assert fleet.ran[1:] == missed
            await anyio.sleep(60)
            assert fleet.fired[len(missed) + 1 :] == [FIRST + 4 * MINUTE]
            tasks.cancel_scope.cancel()

    run(backend, scenario)


def test_an_idle_scheduler_asks_no_more_about_a_paused_schedule(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        watched, registry = UnreliableDriver(world.driver), ScheduleRegistry()

        async def work(schedule: Schedule) -> None:
            raise AssertionError(schedule)

        registry.add("work", "* * * * * *", work)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(watched, registry).run)
            await world.store.pause(entrypoints=["work"])
            await anyio.sleep(3600)
            tasks.cancel_scope.cancel()
        assert watched.calls["claim"] <= 1
        assert watched.calls["snapshot"] <= 60 + 5

    run(backend, scenario)


def test_one_that_is_paused_while_it_runs_goes_on_and_is_not_fired_again(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire="all", seconds=150)
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            await anyio.sleep(60)
            await fleet.store.pause(entrypoints=["work"])
            fleet.notify()
            await anyio.sleep(600)
            paused = await row(world.store)
            assert (paused.status, fleet.fired) == ("canceled", [FIRST])
            assert paused.last_run is not None
            assert paused.last_run - fleet.began[0] == pytest.approx(
                timedelta(seconds=150), abs=timedelta(seconds=1)
            )
            tasks.cancel_scope.cancel()

    run(backend, scenario)


def test_one_that_is_resumed_while_it_runs_is_not_run_beside_itself(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire="last", seconds=150)
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            await anyio.sleep(60)
            for _ in range(3):
                await fleet.store.pause(entrypoints=["work"])
                fleet.notify()
                await anyio.sleep(20)
                await fleet.store.resume(entrypoints=["work"])
                fleet.notify()
            await anyio.sleep(180)
            assert fleet.fired == [FIRST, FIRST + 3 * MINUTE]
            tasks.cancel_scope.cancel()

    run(backend, scenario)


@POLICIES
def test_a_triggered_schedule_fires_now_and_then_as_ever(
    backend: Backend, misfire: Misfire
) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire=misfire, expression="0 * * * *")
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            await anyio.sleep(600)
            at = world.now()
            await fleet.store.trigger(entrypoints=["work"])
            fleet.notify()
            await anyio.sleep(1)
            assert len(fleet.ran) == 1
            assert abs(fleet.fired[0] - at) < timedelta(milliseconds=50)
            assert fleet.began[0] - at < timedelta(milliseconds=50)
            await anyio.sleep(3600)
            assert fleet.fired[1:] == [FIRST + 59 * MINUTE]
            tasks.cancel_scope.cancel()

    run(backend, scenario)


@POLICIES
@pytest.mark.parametrize("notified", [True, False])
def test_a_trigger_during_a_run_fires_when_that_has_ended(
    backend: Backend, misfire: Misfire, notified: bool
) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire=misfire, expression="0 * * * *", seconds=20)
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            for _ in range(2):
                await fleet.store.trigger(entrypoints=["work"])
                fleet.notify()
                await anyio.sleep(5)
            await fleet.store.trigger(entrypoints=["work"])
            if notified:
                fleet.notify()
            await anyio.sleep(60)
            first, second = fleet.began
            assert timedelta(0) <= second - first - timedelta(seconds=20) < timedelta(seconds=1)
            assert (await row(world.store)).next_run == FIRST + 59 * MINUTE
            tasks.cancel_scope.cancel()

    run(backend, scenario)


@POLICIES
def test_a_trigger_makes_up_for_no_fire_time_that_came_during_the_run(
    backend: Backend, misfire: Misfire
) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire=misfire, seconds=150)
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            await anyio.sleep(60)
            await fleet.store.trigger(entrypoints=["work"])  # at 1:30
            fleet.notify()
            await anyio.sleep(420)
            # From 1:00 to 3:30, at once from 3:30 to 6:00, then for 6:00 or 7:00.
            assert len(fleet.ran) == 3
            assert fleet.fired[0] == FIRST
            assert fleet.began[1] - fleet.began[0] == pytest.approx(
                timedelta(seconds=150), abs=timedelta(seconds=1)
            )
            assert fleet.ran[1][1] == 0
            assert sum(one.skipped["work"] for one in fleet.schedulers) in {4, 5}
            tasks.cancel_scope.cancel()

    run(backend, scenario)


def test_a_trigger_that_nobody_heard_is_found_within_a_minute(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire="skip", expression=RARE)
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            await anyio.sleep(90)
            await fleet.store.trigger(entrypoints=["work"])
            await anyio.sleep(61)
            assert len(fleet.ran) == 1
            tasks.cancel_scope.cancel()

    run(backend, scenario)


def test_a_trigger_while_nobody_is_there_fires_under_skip_too(backend: Backend) -> None:
    async def scenario(world: World) -> None:
        fleet = Fleet(world, misfire="skip", expression="0 * * * *")
        async with anyio.create_task_group() as tasks:
            await fleet.start(tasks)
            tasks.cancel_scope.cancel()
        await fleet.store.trigger(entrypoints=["work"])
        await anyio.sleep(4 * 3600)
        again = Fleet(world, misfire="skip", expression="0 * * * *")
        async with anyio.create_task_group() as tasks:
            await again.start(tasks)
            await anyio.sleep(1)
            assert len(again.ran) == 1
            tasks.cancel_scope.cancel()

    run(backend, scenario)
