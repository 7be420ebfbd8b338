"""What a look sees while a claim or an end is under way is not overwritten by its reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

import anyio
import pytest

from pgq_trio.abc import ScheduleStore
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleRegistry
from tests.scheduler.stores import Log, WatchedStore, add_due, scheduler

RARE = "0 0 29 2 *"
#: Seconds; what is overwritten is noticed after 30 or 60.
PROMPT = 15.0


class Interrupted(WatchedStore):
    """The first claim and the first end have somebody do something before or after they act."""

    def __init__(self, store: ScheduleStore) -> None:
        super().__init__(store)
        self.meanwhile: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {}

    async def _at(self, operation: str, when: str) -> None:
        if (act := self.meanwhile.pop((operation, when), None)) is not None:
            await act()

    async def claim(
        self, schedule: Schedule, *, next_run: datetime, heartbeat_timeout: float
    ) -> Schedule | None:
        await self._at("claim", "before")
        claimed = await super().claim(
            schedule, next_run=next_run, heartbeat_timeout=heartbeat_timeout
        )
        await self._at("claim", "after")
        return claimed

    async def finish(
        self, schedule: Schedule, *, next_run: datetime | None = None, ran: bool = True
    ) -> Schedule | None:
        await self._at("finish", "before")
        ended = await super().finish(schedule, next_run=next_run, ran=ran)
        await self._at("finish", "after")
        return ended


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["claim", "finish"])
async def test_a_trigger_that_is_seen_before_the_reply_fires_at_once(
    store: ScheduleStore, operation: str, when: str
) -> None:
    watched, registry, log = Interrupted(store), ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    await add_due(store, "work", RARE)
    one = scheduler(watched, registry)
    triggered: list[int] = []

    async def trigger() -> None:
        triggered.extend(await store.trigger(entrypoints=["work"]))
        await until_seen(one, watched)

    watched.meanwhile[operation, when] = trigger
    async with anyio.create_task_group() as tasks:
        await tasks.start(one.run)
        with anyio.fail_after(PROMPT):
            # A trigger of a fire that is due and not yet claimed is that same fire.
            await log.until(1 if (operation, when) == ("claim", "before") else 2)
        one.stop()
    assert len(triggered) == 1


async def test_a_row_that_was_deleted_meanwhile_is_not_put_back(store: ScheduleStore) -> None:
    watched, registry, log = Interrupted(store), ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    await add_due(store, "work", RARE)
    one = scheduler(watched, registry)
    deleted = anyio.Event()

    async def delete() -> None:
        await store.delete(entrypoints=["work"])
        await until_seen(one, watched)
        deleted.set()

    watched.meanwhile["claim", "before"] = delete
    async with anyio.create_task_group() as tasks:
        await tasks.start(one.run)
        with anyio.fail_after(PROMPT):
            await deleted.wait()
            await until_seen(one, watched)
        assert one._timetable.next_look() is None
        one.stop()
    assert log.entries == []


async def until_seen(one: Scheduler, watched: WatchedStore) -> None:
    """Have the scheduler look at the table, and wait until it has."""
    seen, looks = anyio.Event(), watched.calls["snapshot"]

    def after(operation: str) -> None:
        if operation == "snapshot" and watched.calls["snapshot"] > looks:
            seen.set()

    watched.after = after
    one.notify()
    await seen.wait()
    for _ in range(5):  # the look takes over what it has read
        await anyio.lowlevel.checkpoint()
