"""What tests of schedulers share: a world whose clock jumps, looking at the table, notes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta

import anyio

from pgq_trio.abc import NewSchedule, ScheduleStore
from pgq_trio.db import InMemoryDriver
from pgq_trio.model.events import Event
from pgq_trio.models import Schedule
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from pgq_trio.testing import Backend, UnreliableDriver, simulate

#: A moment that is no fire time of any expression the tests use.
BEGIN = datetime(2025, 3, 1, 0, 0, 30, 250_000, tzinfo=UTC)

#: A month of schedules takes many steps.
MAX_STEPS = 10_000_000


class World:
    """A queue in memory, in 2025, on the clock of a simulation, which a test may shift."""

    def __init__(self) -> None:
        self.shift = timedelta(0)
        self.driver = InMemoryDriver(self.now)
        self.store: ScheduleStore = self.driver.backend(Settings()).schedules

    def now(self) -> datetime:
        """Return the store's now without a statement."""
        return BEGIN + timedelta(seconds=anyio.current_time()) + self.shift


def run(backend: Backend, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario; whenever all tasks wait, the clock jumps to the next deadline."""
    simulate(scenario, World(), backend=backend, max_steps=MAX_STEPS).check()


def scheduler(
    place: ScheduleStore | UnreliableDriver | World,
    registry: ScheduleRegistry,
    emit: Callable[[Event], None] = lambda _: None,
    **resources: object,
) -> Scheduler:
    """Return a scheduler whose container holds these resources."""
    if isinstance(place, UnreliableDriver):
        place = place.backend(Settings()).schedules
    elif isinstance(place, World):
        place = place.store
    return Scheduler(place, registry, resources=resources, emit=emit)


async def rows(store: ScheduleStore) -> list[Schedule]:
    """Return all rows of the table."""
    return (await store.snapshot()).schedules


async def row(store: ScheduleStore) -> Schedule:
    """Return the only row of the table."""
    (only,) = await rows(store)
    return only


async def now(store: ScheduleStore) -> datetime:
    """Return the store's now."""
    return (await store.snapshot()).now


async def add_due(
    store: ScheduleStore, name: str, expression: str, *, ago: timedelta = timedelta(0)
) -> datetime:
    """Put a row in the table whose `next_run` is that long ago; return it, in whole seconds."""
    next_run = (await now(store) - ago).replace(microsecond=0)
    await store.add([NewSchedule(name, expression, next_run)])
    return next_run


class Log:
    """What handlers saw, and a way to wait for it without sleeping."""

    def __init__(self) -> None:
        self.entries: list[datetime] = []
        self._changed = anyio.Event()

    def add(self, entry: datetime) -> None:
        """Note one fire time."""
        self.entries.append(entry)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, count: int) -> None:
        """Wait until there are so many entries."""
        await anyio.lowlevel.checkpoint()
        while len(self.entries) < count:
            await self._changed.wait()


def unique(entries: Iterable[datetime]) -> bool:
    """Whether nothing is in there twice."""
    listed = list(entries)
    return len(listed) == len(set(listed))
