"""Cancelled at any step, no fire is lost, none runs to its end twice, and no row stays picked."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime, timedelta

import anyio
import pytest
import trio
import trio.testing

from pgq_trio.abc import ScheduleStore
from pgq_trio.db import InMemoryDriver
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from tests.scheduler.stores import WatchedStore, add_due, rows
from tests.scheduler.virtual import World

EVERY_MINUTE = "* * * * *"


class Scenario:
    """Three missed fire times, each run for `seconds`, then the scheduler stops."""

    def __init__(self, store: ScheduleStore, *, seconds: float) -> None:
        self.store = store
        self.completed: Counter[datetime] = Counter()
        self._seconds = seconds
        self._registry = ScheduleRegistry()
        self._registry.add("work", EVERY_MINUTE, self._work, misfire="all")
        self._scheduler: Scheduler | None = None

    async def _work(self, _: Schedule, ctx: ScheduleContext) -> None:
        await anyio.sleep(self._seconds)
        self.completed[ctx.fire_time] += 1
        if len(self.completed) == 3 and self._scheduler is not None:
            self._scheduler.stop()

    async def prepare(self) -> None:
        """Put the row in the table."""
        await add_due(self.store, "work", EVERY_MINUTE, ago=timedelta(seconds=150))

    async def run(self, store: ScheduleStore) -> None:
        """Run a scheduler on a store until three fire times are completed."""
        self._scheduler = Scheduler(store, self._registry, resources={})
        await self._scheduler.run()

    async def check(self, where: str) -> None:
        """Nothing stays picked, and another scheduler completes what is left, each once."""
        assert [row.status for row in await rows(self.store)] == ["queued"], where
        if len(self.completed) < 3:
            await self.run(self.store)
        assert list(self.completed.values())[:3] == [1, 1, 1], where


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self._step = step
        self._scope = scope
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()


def test_cancelled_before_any_step_of_any_task() -> None:
    """Trio only: AnyIO's asyncio backend offers no such hook; the test below runs on both."""

    async def at(step: int) -> bool:
        scenario = Scenario(World().store, seconds=12)
        await scenario.prepare()
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(step, scope)
            trio.lowlevel.add_instrument(instrument)
            await scenario.run(scenario.store)
        trio.lowlevel.remove_instrument(instrument)
        await scenario.check(f"cancelled before step {step}")
        return instrument.steps < step

    for step in itertools.count(1):
        if trio.run(at, step, clock=trio.testing.MockClock(autojump_threshold=0)):
            break
    assert step > 30


@pytest.mark.parametrize("when", ["before", "after"])
async def test_cancelled_around_any_operation_of_the_store(when: str) -> None:
    await anyio.lowlevel.checkpoint()
    for step in itertools.count(1):
        scenario = Scenario(InMemoryDriver().backend(Settings()).schedules, seconds=0)
        await scenario.prepare()
        watched = WatchedStore(scenario.store)
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            count = itertools.count(1)

            def cancel(_: str, scope: anyio.CancelScope = scope, step: int = step) -> None:
                if next(count) == step:  # noqa: B023 - called in this turn of the loop only
                    scope.cancel()

            setattr(watched, when, cancel)
            await scenario.run(watched)
        await scenario.check(f"cancelled {when} operation {step}")
        if next(count) <= step:
            break
    assert step > 8
