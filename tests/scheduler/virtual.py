"""Worlds whose clock jumps: days pass in moments, and the store's clock follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import trio
import trio.testing

from pgq_trio.abc import ScheduleStore
from pgq_trio.db import InMemoryDriver
from pgq_trio.model.events import Event
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from tests.scheduler.stores import WatchedStore

#: A moment that is no fire time of any expression the tests use.
BEGIN = datetime(2025, 3, 1, 0, 0, 30, 250_000, tzinfo=UTC)


class World:
    """A memory store on a clock that `run` drives and a test may shift."""

    def __init__(self) -> None:
        self.shift = timedelta(0)
        self.store: ScheduleStore = InMemoryDriver(self.now).backend(Settings()).schedules

    def now(self) -> datetime:
        """Return the store's now without a statement."""
        return BEGIN + timedelta(seconds=trio.current_time()) + self.shift


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario on Trio; whenever all tasks wait, the clock jumps to the next deadline."""

    async def main() -> None:
        await scenario(World())

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)


def make(
    world: World | WatchedStore,
    registry: ScheduleRegistry,
    emit: Callable[[Event], None] = lambda _: None,
) -> Scheduler:
    """Return a scheduler on a world's store, or on the store around it."""
    store = world.store if isinstance(world, World) else world
    return Scheduler(store, registry, resources={}, emit=emit)
