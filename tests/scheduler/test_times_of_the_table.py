"""Times in the table that no program has, such as PostgreSQL's infinity: nothing dies of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from pgq_trio.abc import ScheduleStore
from pgq_trio.db import PsycopgDriver
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.postgres import Connection, connect, open_pool
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from pgq_trio.types import Misfire
from tests.conftest import NEWEST_SERVER
from tests.scheduler.tools import Log, add_due, row, scheduler
from tests.servers import Binaries, FindServer

RARE = "0 0 29 2 *"
COLUMNS = ["heartbeat", "created", "updated", "next_run", "last_run"]
TIMES = ["-infinity", "infinity", "0044-03-15 BC", "20000-01-01"]
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Table:
    """A schedules table, and a way to change it by hand."""

    store: ScheduleStore
    aside: Connection[Any]

    async def set(self, **columns: str) -> None:
        for column, value in columns.items():
            statement = f"UPDATE pgqueuer_schedules SET {column} = '{value}'"
            await self.aside.execute(statement.encode())


@pytest.fixture(params=NEWEST_SERVER)
async def table(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> AsyncGenerator[Table, None]:
    server: Binaries | str = request.param
    with find_server(server).fresh_database(install_sql) as dsn:
        async with (
            open_pool(dsn, autocommit=True) as pool,
            await connect(dsn, autocommit=True) as aside,
        ):
            yield Table(PsycopgDriver(pool).backend(Settings()).schedules, aside)


@pytest.mark.parametrize("time", TIMES)
async def test_each_is_read_as_the_nearest_that_there_is(table: Table, time: str) -> None:
    await add_due(table.store, "work", RARE)
    await table.set(**dict.fromkeys(COLUMNS, time))
    read = await row(table.store)
    is_early = time.startswith("-") or time.endswith("BC")
    nearest = datetime(100 if is_early else 9900, 1, 1, tzinfo=UTC)
    assert [value for value in astuple(read) if isinstance(value, datetime)] == [nearest] * 5


async def test_a_schedule_that_never_ran_has_no_last_run(table: Table) -> None:
    await add_due(table.store, "work", RARE)
    assert (await row(table.store)).last_run is None


@pytest.mark.parametrize("misfire", ["last", "skip"])
@pytest.mark.parametrize("time", TIMES[:2])
async def test_a_trigger_fires_all_the_same(table: Table, time: str, misfire: Misfire) -> None:
    registry, log = ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work, misfire=misfire)
    for count, column in enumerate(COLUMNS, 1):
        await table.store.clear()
        await add_due(table.store, "work", RARE)
        await table.set(**({"next_run": "2099-01-01"} | {column: time}))
        await table.store.trigger(entrypoints=["work"])
        one = scheduler(table.store, registry)
        async with anyio.create_task_group() as tasks:
            await tasks.start(one.run)
            with anyio.fail_after(PATIENCE):
                await log.until(count)
            one.stop()
        ended = await row(table.store)
        assert (ended.status, ended.last_run is None) == ("queued", False), column
        assert not one.failures


async def test_a_fire_whose_worker_died_is_taken_over(table: Table) -> None:
    registry, log = ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    await add_due(table.store, "work", RARE)
    await table.set(
        status="picked", heartbeat="-infinity", updated="-infinity", next_run="infinity"
    )
    one = scheduler(table.store, registry)
    async with anyio.create_task_group() as tasks:
        await tasks.start(one.run)
        with anyio.fail_after(PATIENCE):
            await log.until(1)
        one.stop()
    assert (await row(table.store)).status == "queued"


async def test_one_that_waits_for_ever_keeps_no_other_waiting(table: Table) -> None:
    registry, log = ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    registry.add("other", "* * * * * *", work)
    await add_due(table.store, "work", RARE)
    await table.set(next_run="infinity")
    one = scheduler(table.store, registry)
    async with anyio.create_task_group() as tasks:
        await tasks.start(one.run)
        with anyio.fail_after(PATIENCE):
            await log.until(2)
        one.stop()
