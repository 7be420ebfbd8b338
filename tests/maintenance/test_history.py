"""Folding and deleting on PostgreSQL: beside PgQueuer, beside open transactions, interrupted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from pgqueuer.adapters.persistence.qb import QueryQueueBuilder
from pgqueuer.domain.settings import DBSettings

from pgq_trio.abc import Driver
from pgq_trio.client.queries import Queries
from pgq_trio.db import AsyncpgPoolDriver, PsycopgDriver
from pgq_trio.maintenance.service import Maintenance
from pgq_trio.model.retention import Retention
from pgq_trio.postgres import Connection, connect, open_pool
from pgq_trio.settings import Settings
from pgq_trio.store.postgres_insights import PostgresInsights
from pgq_trio.store.postgres_sql import PoolSql
from pgq_trio.testing import cancel_at_each_step
from tests.maintenance.stores import WatchedSql, nothing
from tests.store.asyncpg_world import asyncpg_pool

LOG = "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint) "
SOME = LOG + "SELECT i, 'queued', 0, 'a' FROM generate_series(1, {}) AS i"


def pgqueuers_fold(*, advisory_lock: bool) -> bytes:
    """PgQueuer's own statement: with its lock in the background, without it for a reader."""
    build = QueryQueueBuilder().build_aggregate_log_data_to_statistics_query
    return build(advisory_lock=advisory_lock).encode()


@dataclass(frozen=True, slots=True)
class World:
    """The history of one database, and ways to look at it and to disturb it."""

    dsn: str
    sql: WatchedSql
    insights: PostgresInsights
    aside: Connection[Any]

    async def execute(self, statement: str) -> None:
        await self.aside.execute(statement.encode())

    async def value(self, statement: str) -> int:
        row = await (await self.aside.execute(statement.encode())).fetchone()
        assert row is not None
        value: int = row[0]
        return value

    async def counted(self) -> int:
        return await self.value("SELECT coalesce(sum(count), 0)::bigint FROM pgqueuer_statistics")

    async def until_waiting(self, count: int = 1) -> None:
        """Return once so many sessions wait for a lock."""
        with anyio.fail_after(10):
            while await self.value("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:
                await anyio.lowlevel.checkpoint()

    async def fold(self, *, limit: int = 10_000) -> int:
        counted = 0
        while not (step := await self.insights.fold(limit=limit)).is_last:
            counted += step.rows
        return counted + step.rows

    def another_process(self) -> PostgresInsights:
        return PostgresInsights(self.sql, Settings())


@pytest.fixture
async def world(installed_dsn: str) -> AsyncIterator[World]:
    async with (
        open_pool(installed_dsn, autocommit=True) as pool,
        await connect(installed_dsn, autocommit=True) as aside,
    ):
        sql = WatchedSql(PoolSql(pool))
        yield World(installed_dsn, sql, PostgresInsights(sql, Settings()), aside)


@asynccontextmanager
async def other(dsn: str) -> AsyncIterator[Connection[Any]]:
    """A transaction of somebody else, committed at the end of the block."""
    async with await connect(dsn) as connection:
        yield connection


class TestBesidePgQueuer:
    @pytest.mark.parametrize("advisory_lock", [True, False])
    async def test_it_folds_while_we_come(self, world: World, advisory_lock: bool) -> None:
        await world.execute(SOME.format(100))
        async with other(world.dsn) as theirs:
            await theirs.execute(pgqueuers_fold(advisory_lock=advisory_lock))
            assert (await world.insights.fold()).is_busy
            assert (await world.insights.expire(Retention(default=0))).is_busy
        assert await world.counted() == 100
        assert await world.fold() == 0
        assert await world.counted() == 100

    @pytest.mark.parametrize("advisory_lock", [True, False])
    @pytest.mark.parametrize("operation", ["fold", "expire"])
    async def test_it_comes_while_we_are_at_it(
        self, world: World, advisory_lock: bool, operation: str
    ) -> None:
        await world.execute(SOME.format(100))
        statement = pgqueuers_fold(advisory_lock=advisory_lock)
        async with (
            await connect(world.dsn, autocommit=True) as theirs,
            anyio.create_task_group() as tasks,
        ):

            async def before(statement_of_ours: str) -> None:
                if statement_of_ours == "COMMIT":
                    world.sql.before = nothing
                    tasks.start_soon(theirs.execute, statement)
                    await world.until_waiting()

            world.sql.before = before
            if operation == "fold":
                assert await world.fold() == 100
            else:
                assert (await world.insights.expire(Retention(default=0))).rows == 100
        assert await world.counted() == 100

    async def test_both_at_once(self, world: World) -> None:
        rounds, rows = 15, 40

        async def write() -> None:
            for _ in range(rounds):
                await world.execute(SOME.format(rows))

        async def theirs() -> None:
            async with await connect(world.dsn, autocommit=True) as connection:
                for _ in range(rounds):
                    await connection.execute(pgqueuers_fold(advisory_lock=False))

        async def ours(deletes: bool) -> None:
            insights = world.another_process()
            for _ in range(rounds):
                if deletes:
                    await insights.expire(Retention(default=0.05), limit=30)
                else:
                    await insights.fold(limit=30)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(theirs)
            for deletes in (False, True, False):
                tasks.start_soon(ours, deletes)
        await world.fold()
        assert await world.counted() == rounds * rows

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (Settings(), DBSettings()),
            (Settings(prefix="p_"), DBSettings(prefix="p_")),
            (Settings(schema="jobs"), DBSettings(db_schema="jobs")),
            (Settings(statistics_table="mine"), DBSettings(statistics_table="mine")),
        ],
    )
    async def test_the_lock_has_its_name(
        self, world: World, ours: Settings, theirs: DBSettings
    ) -> None:
        insights = PostgresInsights(world.sql, ours)
        assert insights._turn_key == theirs.qualified.statistics_table
        await anyio.lowlevel.checkpoint()

    async def test_one_process_at_a_time(self, world: World) -> None:
        await world.execute(SOME.format(10))
        second = world.another_process()
        seen: list[bool] = []

        async def before(statement: str) -> None:
            if statement == "COMMIT":
                world.sql.before = nothing
                seen.append((await second.fold()).is_busy)
                seen.append((await second.expire(Retention(default=0, statistics=0))).is_busy)

        world.sql.before = before
        assert await world.fold() == 10
        assert seen == [True, True]


class TestBesideVacuum:
    """What VACUUM locks is locked here by hand; who waits for it has it cancelled."""

    LOCK = b"LOCK TABLE pgqueuer_statistics IN SHARE UPDATE EXCLUSIVE MODE"

    async def test_nobody_waits_for_it(self, world: World) -> None:
        await world.execute(SOME.format(10))
        everything = Retention(default=0, statistics=3600)
        async with other(world.dsn) as theirs:
            await theirs.execute(self.LOCK)
            step = await world.insights.fold()
            assert (step.rows, step.is_busy) == (0, True)
            assert (await world.insights.expire(everything)).is_busy
            assert await world.counted() == 0
        assert await world.fold() == 10
        assert await world.counted() == 10

    async def test_a_pass_leaves_it_to_the_next_one(self, world: World) -> None:
        await world.execute(SOME.format(10))
        problems: list[str | None] = []
        service = Maintenance(world.insights, Retention(default=0), on_problem=problems.append)
        async with other(world.dsn) as theirs:
            await theirs.execute(self.LOCK)
            await service._pass()
        assert await world.value("SELECT count(*) FROM pgqueuer_log") == 10
        await service._pass()
        assert await world.value("SELECT count(*) FROM pgqueuer_log") == 0
        assert await world.counted() == 10
        assert problems == []

    async def test_statistics_are_read_as_they_are(
        self, world: World, anyio_backend_name: str
    ) -> None:
        await world.execute(SOME.format(10))
        async with AsyncExitStack() as stack:
            kinds: list[Driver] = [
                PsycopgDriver(await stack.enter_async_context(await connect(world.dsn)))
            ]
            if anyio_backend_name == "asyncio":
                pool = await stack.enter_async_context(asyncpg_pool(world.dsn))
                kinds.append(AsyncpgPoolDriver(pool))
            theirs = await stack.enter_async_context(other(world.dsn))
            await theirs.execute(self.LOCK)
            for driver in kinds:
                assert await Queries(driver).log_statistics() == []

    async def test_a_lent_transaction_goes_on(self, world: World) -> None:
        await world.execute(SOME.format(10))
        async with await connect(world.dsn) as connection:
            queries = Queries(PsycopgDriver(connection))
            await queries.enqueue("mine")
            async with other(world.dsn) as theirs:
                await theirs.execute(self.LOCK)
                assert await queries.aggregate_logs() == 0
            await queries.aggregate_logs()
            await connection.commit()
        assert await world.counted() == 11
        assert await world.value("SELECT count(*) FROM pgqueuer") == 1


async def test_a_row_that_is_marked_while_we_wait_for_it_is_not_counted(world: World) -> None:
    await world.execute(SOME.format(10))
    counted: list[int] = []

    async def fold() -> None:
        counted.append(await world.fold())

    async with anyio.create_task_group() as tasks, other(world.dsn) as theirs:
        await theirs.execute("UPDATE pgqueuer_log SET aggregated = true WHERE id <= 4")
        tasks.start_soon(fold)
        await world.until_waiting()
    assert counted == [6]
    assert await world.counted() == 6


class TestMarks:
    async def test_rows_that_are_committed_late_are_counted(self, world: World) -> None:
        async with other(world.dsn) as open_for_long:
            await open_for_long.execute(SOME.format(3).encode())
            await world.execute(SOME.format(5))
            for _ in range(3):
                assert await world.insights.chores(None) is (_ == 0)
                assert await world.fold() == (5 if _ == 0 else 0)
        assert await world.insights.chores(None) is True
        assert await world.fold() == 3
        assert await world.counted() == 8

    async def test_what_is_settled_is_not_looked_at_again(self, world: World) -> None:
        await world.execute(SOME.format(50))
        await world.fold(limit=20)
        await world.fold()
        top = await world.value("SELECT max(id) FROM pgqueuer_log")
        assert world.insights._fold_mark.place == top
        await world.execute(SOME.format(1))
        assert await world.insights.chores(None) is True
        assert await world.fold() == 1

    async def test_an_idle_look_settles_too(self, world: World) -> None:
        await world.execute(SOME.format(50))
        await world.another_process().fold()
        for _ in range(2):
            assert await world.insights.chores(None) is False
        assert world.insights._fold_mark.place == 50

    async def test_ids_that_begin_anew(self, world: World) -> None:
        retention = Retention(default=0)
        for rows in (50, 40):
            await world.execute(SOME.format(rows))
            assert await world.fold() == rows
            assert await world.fold() == 0
            await world.execute("UPDATE pgqueuer_log SET created = created - interval '1 day'")
            assert await world.insights.chores(retention) is True
            while not (await world.insights.expire(retention)).is_last:
                pass
            assert await world.value("SELECT count(*) FROM pgqueuer_log") == 0
            await world.execute("TRUNCATE pgqueuer_log RESTART IDENTITY")
        await world.execute(SOME.format(10))
        assert await world.insights.chores(None) is True
        assert await world.fold() == 10
        assert await world.counted() == 100

    async def test_a_row_of_a_wrong_clock_does_not_stop_deletions(self, world: World) -> None:
        await world.execute(SOME.format(10))
        await world.execute("UPDATE pgqueuer_log SET created = created - interval '1 day'")
        await world.execute(
            "UPDATE pgqueuer_log SET created = created + interval '9 years' WHERE id = 4"
        )
        retention = Retention(default=3600)
        assert await world.insights.chores(retention) is True
        while not (await world.insights.expire(retention, limit=2)).is_last:
            pass
        assert await world.value("SELECT count(*) FROM pgqueuer_log") == 1


async def test_what_the_caller_rolls_back_is_done_again(world: World) -> None:
    await world.execute(SOME.format(30))
    async with await connect(world.dsn) as connection:
        queries = Queries(PsycopgDriver(connection))
        for _ in range(2):
            assert await queries.aggregate_logs() == 30
            await connection.rollback()
            assert await queries.delete_expired_logs(0) == 30
            await connection.rollback()
        assert await world.counted() == 0
        assert await queries.delete_expired_logs(0) == 30
    assert await world.counted() == 30


async def test_an_idle_look_is_one_statement(world: World) -> None:
    await world.execute(SOME.format(5))
    await world.fold()
    sent: list[str] = []

    async def before(statement: str) -> None:
        sent.append(statement)

    world.sql.before = before
    assert await world.insights.chores(Retention(default=3600, exception=60)) is False
    assert len(sent) == 1


async def test_an_estimate_of_a_large_log_reads_a_sample(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.execute(SOME.format(20_000))
    await world.execute(
        "UPDATE pgqueuer_log SET created = created - interval '1 day' WHERE id <= 10000"
    )
    exact = await world.insights.expired_estimate(Retention(default=3600))
    assert exact == 10_000
    assert await world.insights.expired_estimate(Retention(failed=3600)) == 0
    monkeypatch.setattr("pgq_trio.store.postgres_history._SAMPLE_PAGES", 50)
    sampled = await world.insights.expired_estimate(Retention(default=3600))
    assert 2_000 < sampled < 30_000


async def test_interrupted_at_any_step_each_row_is_counted_once(world: World) -> None:
    async def begin() -> PostgresInsights:
        await world.execute("TRUNCATE pgqueuer_log, pgqueuer_statistics")
        await world.execute(SOME.format(30))
        return world.another_process()

    insights = await begin()

    async def work() -> None:
        await insights.fold(limit=10)
        await insights.expire(Retention(default=0, statistics=3600), limit=10)
        await insights.fold(limit=10)

    async def check() -> None:
        nonlocal insights
        assert await world.counted() + await insights.unfolded() == 30
        while not (await insights.expire(Retention(default=0))).is_last:
            pass
        assert await world.counted() == 30
        insights = await begin()

    steps = await cancel_at_each_step(work, check)
    assert min(steps.values()) > 12
