"""A store around a real one: it counts, and it fails, waits or calls back where a test says so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import anyio

from pgq_trio.abc import NewSchedule, ScheduleStore, Snapshot
from pgq_trio.model.events import Event
from pgq_trio.models import Schedule
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry

T = TypeVar("T")


class WatchedStore(ScheduleStore):
    """Passes everything on to a real store.

    Attributes:
        calls: how often each operation was called.
        faults: by operation, what its next calls raise instead of doing anything; None: nothing.
        lost_replies: as `faults`, but the operation takes effect before it raises.
        silent: by operation, how many of its next calls are never answered, and do nothing.
        before: called with the operation's name at the start of each call.
        after: called with the operation's name once it has taken effect.
    """

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.faults: defaultdict[str, list[Exception | None]] = defaultdict(list)
        self.lost_replies: defaultdict[str, list[Exception | None]] = defaultdict(list)
        self.silent: Counter[str] = Counter()
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None

    async def _do(self, operation: str, function: Callable[[], Awaitable[T]]) -> T:
        self.calls[operation] += 1
        self.before(operation)
        if self.silent[operation] > 0:
            self.silent[operation] -= 1
            await anyio.sleep_forever()
        _raise_next(self.faults[operation])
        result = await function()
        self.after(operation)
        await anyio.lowlevel.checkpoint()  # the reply is on its way
        _raise_next(self.lost_replies[operation])
        return result

    async def snapshot(self) -> Snapshot:
        return await self._do("snapshot", self._store.snapshot)

    async def add(self, schedules: Sequence[NewSchedule]) -> None:
        await self._do("add", lambda: self._store.add(schedules))

    async def claim(
        self, schedule: Schedule, *, next_run: datetime, heartbeat_timeout: float
    ) -> Schedule | None:
        return await self._do(
            "claim",
            lambda: self._store.claim(
                schedule, next_run=next_run, heartbeat_timeout=heartbeat_timeout
            ),
        )

    async def heartbeat(self, schedules: Sequence[Schedule]) -> set[int]:
        return await self._do("heartbeat", lambda: self._store.heartbeat(schedules))

    async def finish(
        self, schedule: Schedule, *, next_run: datetime | None = None, ran: bool = True
    ) -> Schedule | None:
        return await self._do(
            "finish", lambda: self._store.finish(schedule, next_run=next_run, ran=ran)
        )

    async def pause(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        return await self._do("pause", lambda: self._store.pause(ids=ids, entrypoints=entrypoints))

    async def resume(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        return await self._do(
            "resume", lambda: self._store.resume(ids=ids, entrypoints=entrypoints)
        )

    async def trigger(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        return await self._do(
            "trigger", lambda: self._store.trigger(ids=ids, entrypoints=entrypoints)
        )

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        return await self._do(
            "delete", lambda: self._store.delete(ids=ids, entrypoints=entrypoints)
        )

    async def clear(self) -> int:
        return await self._do("clear", self._store.clear)


def _raise_next(errors: list[Exception | None]) -> None:
    if errors and (error := errors.pop(0)) is not None:
        raise error


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


def scheduler(
    store: ScheduleStore,
    registry: ScheduleRegistry,
    *,
    emit: Callable[[Event], None] = lambda _: None,
    **resources: object,
) -> Scheduler:
    """Return a scheduler whose container holds these resources."""
    return Scheduler(store, registry, resources=resources, emit=emit)
