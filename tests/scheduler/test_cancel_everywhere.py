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


class Triggered:
    """A run that is triggered and resumed while it goes on, past a fire time of its own.

    The trigger has to make a run that begins after it, whatever is cancelled.
    """

    def __init__(self, store: ScheduleStore, *, seconds: float) -> None:
        self.store = store
        self.completed_after = 0
        self._running = 0
        self._seconds = seconds
        self._triggered = False
        self._scheduler: Scheduler | None = None
        self._registry = ScheduleRegistry()
        self._registry.add("work", EVERY_MINUTE, self._work, misfire="skip")

    async def _work(self, _: Schedule) -> None:
        self._running += 1
        assert self._running == 1
        try:
            after = self._triggered
            await anyio.sleep(self._seconds)
            if not after:
                with anyio.CancelScope(shield=True):  # somebody else does this
                    await self.store.pause(entrypoints=["work"])
                    await self.store.resume(entrypoints=["work"])
                    await self.store.trigger(entrypoints=["work"])
                    self._triggered = True
                await anyio.sleep(self._seconds)
            else:
                self.completed_after += 1
                if self._scheduler is not None:
                    self._scheduler.stop()
        finally:
            self._running -= 1

    async def prepare(self) -> None:
        """Put the row in the table, due now."""
        await add_due(self.store, "work", EVERY_MINUTE)
        await self.store.trigger(entrypoints=["work"])

    async def run(self, store: ScheduleStore) -> None:
        """Run a scheduler on a store until the triggered run has ended."""
        self._scheduler = Scheduler(store, self._registry, resources={})
        await self._scheduler.run()

    async def check(self, where: str) -> None:
        """Nothing stays picked or paused, and the run asked for comes in the end."""
        (row,) = await rows(self.store)
        assert row.status == "queued", where
        if not self.completed_after:
            assert row.next_run.microsecond != 0, where  # the trigger is still there
            await self.run(self.store)
        assert self.completed_after == 1, where


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


@pytest.mark.parametrize(("kind", "seconds"), [(Scenario, 12), (Triggered, 40)])
def test_cancelled_before_any_step_of_any_task(
    kind: type[Scenario | Triggered], seconds: float
) -> None:
    """Trio only: AnyIO's asyncio backend offers no such hook; the test below runs on both."""

    async def at(step: int) -> bool:
        scenario = kind(World().store, seconds=seconds)
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
@pytest.mark.parametrize("kind", [Scenario, Triggered])
async def test_cancelled_around_any_operation_of_the_store(
    kind: type[Scenario | Triggered], when: str
) -> None:
    await anyio.lowlevel.checkpoint()
    for step in itertools.count(1):
        scenario = kind(InMemoryDriver().backend(Settings()).schedules, seconds=0)
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
    assert step > 5
