"""Cancelled at any step, no fire is lost, none runs to its end twice, and no row stays picked."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import anyio
import pytest
from hypothesis import given, strategies as st

from pgq_trio.abc import ScheduleStore
from pgq_trio.db import InMemoryDriver
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Fault,
    Moment,
    Policy,
    Simulation,
    UnreliableDriver,
    cancel_everywhere,
    interleavings,
    simulate,
)
from tests.property.profiles import examples
from tests.scheduler.tools import add_due, rows

EVERY_MINUTE = "* * * * *"


class Scenario:
    """Three missed fire times, each run for `seconds`, then the scheduler stops."""

    def __init__(self, *, seconds: float) -> None:
        self.driver = InMemoryDriver()
        self.store = self.driver.backend(Settings()).schedules
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

    async def run_unreliably(self) -> None:
        """Run it on a connection whose requests and replies take a step each."""
        await self.run(UnreliableDriver(self.driver).backend(Settings()).schedules)

    async def run(self, store: ScheduleStore) -> None:
        """Run a scheduler on a store until three fire times are completed."""
        self._scheduler = Scheduler(store, self._registry, resources={})
        await self._scheduler.run()

    async def check(self) -> None:
        """Nothing stays picked, and another scheduler completes what is left, each once."""
        assert [row.status for row in await rows(self.store)] == ["queued"]
        if len(self.completed) < 3:
            await self.run(self.store)
        assert list(self.completed.values())[:3] == [1, 1, 1]


class Triggered:
    """A run that is triggered and resumed while it goes on, past a fire time of its own.

    The trigger has to make a run that begins after it, whatever is cancelled.
    """

    def __init__(self, *, seconds: float) -> None:
        self.driver = InMemoryDriver()
        self.store = self.driver.backend(Settings()).schedules
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

    async def run_unreliably(self) -> None:
        """Run it on a connection whose requests and replies take a step each."""
        await self.run(UnreliableDriver(self.driver).backend(Settings()).schedules)

    async def run(self, store: ScheduleStore) -> None:
        """Run a scheduler on a store until the triggered run has ended."""
        self._scheduler = Scheduler(store, self._registry, resources={})
        await self._scheduler.run()

    async def check(self) -> None:
        """Nothing stays picked or paused, and the run asked for comes in the end."""
        (row,) = await rows(self.store)
        assert row.status == "queued"
        if not self.completed_after:
            assert row.next_run.microsecond != 0  # the trigger is still there
            await self.run(self.store)
        assert self.completed_after == 1


def prepared(kind: type[Scenario | Triggered], seconds: float) -> Scenario | Triggered:
    """A scenario whose row is in the table."""
    scenario = kind(seconds=seconds)
    simulate(scenario.prepare).check()
    return scenario


def check(scenario: Scenario | Triggered, simulation: Simulation[None]) -> None:
    """Look at what a run has left, cancelled or not."""
    simulate(scenario.check, backend=simulation.backend).check()


@pytest.mark.parametrize("policy", ["stay", "rotate"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "seconds"), [(Scenario, 12), (Triggered, 40)])
def test_cancelled_at_any_step_of_any_task(
    kind: type[Scenario | Triggered], seconds: float, backend: Backend, policy: Policy
) -> None:
    """Requests and replies are steps as well, so that each operation of the store is hit."""
    steps = cancel_everywhere(
        kind.run_unreliably,
        make=lambda: prepared(kind, seconds),
        check=check,
        backend=backend,
        policies=[policy],
    )
    assert min(steps.values()) > 30


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "seconds"), [(Scenario, 12), (Triggered, 40)])
@examples(60)
@given(
    schedule=interleavings(tasks=4, decisions=80),
    step=st.integers(1, 120),
    moment=st.sampled_from(["before", "in flight"]),
)
def test_cancelled_in_any_order(
    kind: type[Scenario | Triggered],
    seconds: float,
    backend: Backend,
    schedule: tuple[int, ...],
    step: int,
    moment: Moment,
) -> None:
    scenario = prepared(kind, seconds)
    faults = [Fault(step, moment)]
    simulation = simulate(
        scenario.run_unreliably, backend=backend, schedule=schedule, faults=faults
    )
    simulation.check()
    check(scenario, simulation)
