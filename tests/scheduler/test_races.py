"""What a look sees while a claim or an end is under way is not overwritten by its reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from pgq_trio.abc import Driver, ScheduleStore
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.testing import Call, UnreliableDriver
from tests.scheduler.tools import Log, add_due, scheduler
from tests.worker.tools import Notes

RARE = "0 0 29 2 *"
#: Seconds; what is overwritten is noticed after 30 or 60.
PROMPT = 15.0


class Interrupted:
    """A connection whose first claim and first end have somebody do something meanwhile.

    Attributes:
        meanwhile: by operation and by when, before its change or after it, what is done.
    """

    def __init__(self, driver: Driver) -> None:
        self.connection = UnreliableDriver(driver)
        self.connection.before = partial(self._at, "before")
        self.connection.after = partial(self._at, "after")
        self.meanwhile: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {}
        self._looks: Notes[int] = Notes()

    async def until_seen(self, one: Scheduler) -> None:
        """Have the scheduler look at the table, and wait until it has."""
        begun = self.connection.calls["snapshot"]
        one.notify()
        await self._looks.until_all(lambda: max(self._looks.entries, default=0) > begun)
        for _ in range(5):  # the look takes over what it has read
            await anyio.lowlevel.checkpoint()

    async def _at(self, when: str, call: Call) -> None:
        await anyio.lowlevel.checkpoint()
        if (when, call.name) == ("after", "snapshot"):
            self._looks.add(self.connection.calls["snapshot"])
        if (act := self.meanwhile.pop((call.name, when), None)) is not None:
            await act()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["claim", "finish"])
async def test_a_trigger_that_is_seen_before_the_reply_fires_at_once(
    driver: Driver, store: ScheduleStore, operation: str, when: str
) -> None:
    watched, registry, log = Interrupted(driver), ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    await add_due(store, "work", RARE)
    one = scheduler(watched.connection, registry)
    triggered: list[int] = []

    async def trigger() -> None:
        triggered.extend(await store.trigger(entrypoints=["work"]))
        await watched.until_seen(one)

    watched.meanwhile[operation, when] = trigger
    async with anyio.create_task_group() as tasks:
        await tasks.start(one.run)
        with anyio.fail_after(PROMPT):
            # A trigger of a fire that is due and not yet claimed is that same fire.
            await log.until(1 if (operation, when) == ("claim", "before") else 2)
        one.stop()
    assert len(triggered) == 1


async def test_a_row_that_was_deleted_meanwhile_is_not_put_back(
    driver: Driver, store: ScheduleStore
) -> None:
    watched, registry, log = Interrupted(driver), ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    await add_due(store, "work", RARE)
    one = scheduler(watched.connection, registry)
    deleted = anyio.Event()

    async def delete() -> None:
        await store.delete(entrypoints=["work"])
        await watched.until_seen(one)
        deleted.set()

    watched.meanwhile["claim", "before"] = delete
    async with anyio.create_task_group() as tasks:
        await tasks.start(one.run)
        with anyio.fail_after(PROMPT):
            await deleted.wait()
            await watched.until_seen(one)
        assert one._timetable.next_look() is None
        one.stop()
    assert log.entries == []
