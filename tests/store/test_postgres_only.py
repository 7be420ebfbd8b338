"""What only the PostgreSQL store has: connections that break, transactions, races, plans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest
from psycopg import errors as pg

from pgq_trio.abc import ClaimRequest
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import (
    ConnectionLost,
    DuplicateJobError,
    ListenerLost,
    SchemaMissing,
    StoreError,
)
from pgq_trio.model.outcomes import Outcome
from pgq_trio.postgres import ConnectionPool, PoolTimeout, connect, open_pool
from pgq_trio.postgres.sql_port import ConstraintViolated, Row
from pgq_trio.settings import Settings
from pgq_trio.store import batches
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.postgres_errors import translate
from pgq_trio.store.postgres_jobs import PostgresJobs
from pgq_trio.store.postgres_sql import ConnectionSql, PoolSql
from tests.servers import PostgresServer
from tests.store.postgres_world import pool_world
from tests.store.world import ALICE, PATIENCE, World, fence, new


@pytest.fixture
async def world(emptied_dsn: str) -> AsyncIterator[World]:
    async with pool_world(emptied_dsn, Settings()) as world:
        yield world


class TestWall:
    async def test_a_connection_that_is_closed(self, emptied_dsn: str) -> None:
        connection = await connect(emptied_dsn, autocommit=True)
        backend = PsycopgDriver(connection).backend(Settings())
        await connection.close()
        with pytest.raises(ConnectionLost, match="give a worker a pool") as caught:
            await backend.jobs.enqueue([new()], on_conflict="raise")
        assert not caught.value.retryable
        with pytest.raises(ConnectionLost):
            await backend.schedules.snapshot()
        with pytest.raises(ConnectionLost):
            await backend.jobs.cancel([1])
        with pytest.raises(ConnectionLost):
            await backend.schema.install()

    async def test_a_connection_that_breaks(
        self, emptied_dsn: str, postgres_server: PostgresServer
    ) -> None:
        async with await connect(emptied_dsn, autocommit=True, application_name="me") as one:
            jobs = PsycopgDriver(one).backend(Settings()).jobs
            await jobs.queue_size()
            assert postgres_server.kill_backends(application_name="me") == 1
            with pytest.raises(ConnectionLost):
                await jobs.queue_size()

    async def test_no_tables(self, dsn: str) -> None:
        async with open_pool(dsn, autocommit=True) as pool:
            backend = PsycopgDriver(pool).backend(Settings())
            with pytest.raises(SchemaMissing, match="pgqueuer") as caught:
                await backend.jobs.enqueue([new()], on_conflict="raise")
            assert isinstance(caught.value.__cause__, psycopg.Error)
            with pytest.raises(SchemaMissing):
                await backend.schedules.snapshot()
            # The connection is fine, and a later installation is seen.
            await backend.schema.install()
            assert len(await backend.jobs.enqueue([new()], on_conflict="raise")) == 1

    @pytest.mark.parametrize(
        ("error", "retryable"),
        [
            (pg.DeadlockDetected(), True),
            (pg.SerializationFailure(), True),
            (PoolTimeout("all are busy"), True),
            (pg.DiskFull(), True),
            (pg.SyntaxError(), False),
            (pg.InsufficientPrivilege(), False),
            (pg.NotNullViolation(), False),
        ],
    )
    def test_what_may_be_sent_again(self, error: psycopg.Error, retryable: bool) -> None:
        translated = translate(error)
        assert type(translated) is StoreError
        assert translated.retryable is retryable

    @pytest.mark.parametrize(
        "error", [pg.AdminShutdown(), pg.CrashShutdown(), psycopg.OperationalError("reset")]
    )
    def test_what_ends_a_session(self, error: psycopg.Error) -> None:
        assert isinstance(translate(error), ConnectionLost)

    async def test_one_outcome_that_cannot_be_stored(self, world: World) -> None:
        job = await world.claimed_one()
        for record in ('{"a": "\\u0000"}', "no JSON", "nul \x00"):
            with pytest.raises(StoreError) as caught:
                await world.finish([job], Outcome("exception", record))
            assert not caught.value.retryable
        assert await world.statuses(job.id) == ["queued", "picked"]
        assert await world.finish([job]) == {job.id}


class TestListener:
    async def test_a_broken_connection_is_told(
        self, emptied_dsn: str, postgres_server: PostgresServer
    ) -> None:
        async with open_pool(emptied_dsn, autocommit=True, application_name="me") as pool:
            notifier = PsycopgDriver(pool).backend(Settings()).notifier
            async with notifier.listen() as payloads:
                postgres_server.kill_backends(application_name="me")
                with anyio.fail_after(PATIENCE), pytest.raises(ListenerLost):
                    await payloads.__anext__()
            # The pool's own connection is gone, too; how to connect is remembered.
            async with notifier.listen():
                pass

    async def test_a_server_that_is_not_there(self, emptied_dsn: str) -> None:
        settings = Settings(listen_dsn="host=127.0.0.1 port=1 connect_timeout=2")
        async with open_pool(emptied_dsn) as pool:
            notifier = PsycopgDriver(pool).backend(settings).notifier
            with pytest.raises(ConnectionLost):
                async with notifier.listen():
                    raise AssertionError("nobody listens there")

    async def test_it_connects_where_the_connection_did(self, emptied_dsn: str) -> None:
        async with await connect(emptied_dsn, password="s3cret pass'", autocommit=True) as one:  # noqa: S106
            sql = ConnectionSql(one)
            async with sql.listen("channel"):
                assert sql._listen_dsn is not None
                assert "s3cret" in sql._listen_dsn
                rows = await sql.fetch(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                )
                assert rows[0][0] >= 2

    async def test_an_error_in_the_block_comes_out_as_it_is(self, world: World) -> None:
        with pytest.raises(ZeroDivisionError):
            async with world.listening():
                raise ZeroDivisionError


class TestTransactions:
    async def test_part_of_the_callers(self, emptied_dsn: str, world: World) -> None:
        async with world.listening() as heard, await connect(emptied_dsn) as connection:
            jobs = PsycopgDriver(connection).backend(Settings()).jobs
            await jobs.enqueue([new()], on_conflict="raise")
            assert await world.queued() == 0
            await connection.rollback()
            assert await world.queued() == 0
            await jobs.enqueue([new(), new()], on_conflict="raise")
            await connection.commit()
            assert await world.queued() == 2
            await heard.next()
            assert await heard.until_marker() == []

    async def test_a_pool_that_is_not_in_autocommit(self, emptied_dsn: str) -> None:
        async with open_pool(emptied_dsn, max_size=1) as pool:
            jobs = PsycopgDriver(pool).backend(Settings()).jobs
            await jobs.enqueue([new()], on_conflict="raise")
            with anyio.move_on_after(0.05):
                await PoolSql(pool).fetch("SELECT pg_sleep(10)")
            async with pool.connection() as connection:
                assert not connection.autocommit
            assert len(await jobs.queue_size()) == 1

    async def test_a_batch_in_several_statements_is_one_change(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batches, "MAX_CHUNK_JOBS", 3)
        ids = await world.enqueue_ids(*(new(key=f"k{n}") for n in range(10)))
        assert ids == sorted(ids)
        with pytest.raises(DuplicateJobError):
            await world.enqueue(*(new(key=key) for key in ("x", "y", "z", "k0")))
        assert await world.queued() == 10

    def test_a_batch_is_cut_by_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batches, "MAX_CHUNK_BYTES", 10)
        jobs = [new(payload=b"x" * size) for size in (4, 4, 4, 20, 1)]
        cut = [[len(job.payload or b"") for job in chunk] for chunk in batches.chunks(jobs)]
        assert cut == [[4, 4], [4], [20], [1]]

    async def test_two_transactions_on_one_connection_take_turns(self, emptied_dsn: str) -> None:
        async with await connect(emptied_dsn, autocommit=True) as connection:
            jobs = PsycopgDriver(connection).backend(Settings()).jobs
            ids = [
                job_id
                for job_id in await jobs.enqueue([new() for _ in range(40)], on_conflict="raise")
                if job_id is not None
            ]
            gone: set[int] = set()

            async def cancel(job_id: int) -> None:
                gone.update(await jobs.cancel([job_id]))
                await jobs.queue_size()

            async with anyio.create_task_group() as tasks:
                for job_id in ids:
                    tasks.start_soon(cancel, job_id)
            assert gone == set(ids)


class TestRows:
    """What PgQueuer's workers look at, and what they leave behind."""

    async def test_only_picked_rows_have_an_owner(self, emptied_dsn: str, world: World) -> None:
        await world.enqueue(*(new() for _ in range(4)))
        jobs = (await world.claim({"a": 4})).jobs
        await world.backend.jobs.release(ALICE, [fence(jobs[0])])
        await world.finish([jobs[1]], Outcome("retry"))
        await world.finish([jobs[2], jobs[3]], Outcome("failed"))
        await world.backend.jobs.requeue([jobs[3].id])
        with psycopg.connect(emptied_dsn) as connection:
            rows = connection.execute(
                "SELECT DISTINCT queue_manager_id, slot FROM pgqueuer"
            ).fetchall()
        assert rows == [(None, None)]

    async def test_a_slot_left_on_a_queued_row(self, emptied_dsn: str, world: World) -> None:
        await world.enqueue(new(), new())
        with psycopg.connect(emptied_dsn) as connection:
            connection.execute("UPDATE pgqueuer SET slot = 7")
        [job] = (await world.claim({"a": 0}, batch=1)).jobs
        assert job.slot is None
        [job] = (await world.claim({"a": 9}, batch=1)).jobs
        assert job.slot == 0


class _LosingSql:
    """A port on which somebody else always wins the slot."""

    def __init__(self, constraint: str) -> None:
        self.constraint = constraint
        self.limited: list[object] = []

    async def fetch(self, statement: str, params: Sequence[object] = ()) -> list[Row]:
        await anyio.lowlevel.checkpoint()
        assert statement
        self.limited.append(params[6])
        if params[6]:
            raise ConstraintViolated(self.constraint, "lost")
        return [(None, None, None, None, *[None] * 6)]

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError

    async def run_script(self, statements: Sequence[str]) -> None:
        raise NotImplementedError

    def listen(self, *channels: str) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError(channels)


class _CountingSql:
    """A port that runs each statement twice, and notes how many blocks the first run read."""

    def __init__(self, sql: PoolSql) -> None:
        self.sql = sql
        self.blocks: list[int] = []

    async def fetch(self, statement: str, params: Sequence[object] = ()) -> list[Row]:
        explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        [([plan],)] = await self.sql.fetch(explained, params)
        self.blocks.append(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
        return await self.sql.fetch(statement, params)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        return self.sql.transaction()

    async def run_script(self, statements: Sequence[str]) -> None:
        await self.sql.run_script(statements)

    def listen(self, *channels: str) -> AbstractAsyncContextManager[Any]:
        return self.sql.listen(*channels)


class TestSlotRace:
    request = ClaimRequest(
        queue_manager_id=ALICE,
        limits={"a": 1, "b": 0},
        batch_size=5,
        limited_batch_size=5,
        heartbeat_timeout=30,
    )

    async def test_lost_again_and_again_unlimited_jobs_are_claimed(self) -> None:
        sql = _LosingSql("pgqueuer_picked_slot_idx")
        claimed = await PostgresJobs(sql, Settings()).claim(self.request)
        assert claimed.jobs == []
        assert sql.limited == [5, 5, 5, 5, 5, 0]

    async def test_another_constraint_is_an_error(self) -> None:
        sql = _LosingSql("pgqueuer_pkey")
        with pytest.raises(ConstraintViolated):
            await PostgresJobs(sql, Settings()).claim(self.request)

    async def test_against_an_open_transaction(self, emptied_dsn: str, world: World) -> None:
        await world.enqueue(new(), new(), new("b"))
        async with await connect(emptied_dsn) as other:
            await other.execute(
                "UPDATE pgqueuer SET status = 'picked', slot = 0, queue_manager_id = %s"
                " WHERE id = (SELECT max(id) FROM pgqueuer WHERE entrypoint = 'a')",
                [ALICE],
            )
            got: list[str] = []

            async def claim() -> None:
                claimed = await world.claim({"a": 1, "b": 0})
                got.extend(job.entrypoint for job in claimed.jobs)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim)
                with anyio.fail_after(PATIENCE):
                    while not await _somebody_waits(other):
                        await anyio.sleep(0.01)
                await other.commit()
            assert got == ["b"]


async def _somebody_waits(connection: psycopg.AsyncConnection[Any]) -> bool:
    cursor = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
    row = await cursor.fetchone()
    return row is not None and row[0] > 0


class TestPlans:
    async def test_statements_are_prepared_once_for_all_values(self, emptied_dsn: str) -> None:
        async with await connect(emptied_dsn, autocommit=True) as connection:
            world = World(PsycopgDriver(connection).backend(Settings()), _no_time)
            for batch in (1, 1000, 100_000):
                await world.enqueue(*(new(priority=batch) for _ in range(3)))
                jobs = (await world.claim(batch=batch)).jobs
                await world.backend.jobs.log(job_id=batch)
                await world.backend.jobs.log(limit=batch)
                await world.finish(jobs)
                await world.backend.jobs.cancel([])
                await world.backend.jobs.cancel([batch, 2**40])
            cursor = await connection.execute(
                "SELECT statement, count(*) FROM pg_prepared_statements"
                " GROUP BY 1 HAVING count(*) > 1"
            )
            assert await cursor.fetchall() == []

    async def test_claims_are_neither_compiled_nor_planned_each_time(
        self, emptied_dsn: str
    ) -> None:
        async with await connect(emptied_dsn, autocommit=True) as connection:
            world = World(PsycopgDriver(connection).backend(Settings()), _no_time)
            for _ in range(12):
                await world.claim(batch=10)
                await world.claim({"a": 2, "b": 0}, batch=10)
            cursor = await connection.execute(
                "SELECT current_setting('jit'), custom_plans, generic_plans"
                " FROM pg_prepared_statements WHERE statement LIKE 'WITH entry%'"
            )
            assert await cursor.fetchall() == [("off", 5, 7)] * 2

    async def test_a_million_deferred_jobs_do_not_slow_a_claim(
        self, emptied_dsn: str, world: World
    ) -> None:
        with psycopg.connect(emptied_dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO pgqueuer (priority, status, entrypoint, execute_after)"
                " SELECT 5, 'queued', 'a', now() + interval '1 day'"
                " FROM generate_series(1, 200000)"
            )
        await world.enqueue(*(new() for _ in range(100)))
        async with open_pool(emptied_dsn, max_size=1, autocommit=True) as pool:
            sql = _CountingSql(PoolSql(pool))
            world = World(
                replace(_backend_on(pool), jobs=PostgresJobs(sql, Settings())),
                _no_time,
            )
            for limits in ({"a": 0}, {"a": 100}):
                assert len((await world.claim(limits, batch=5)).jobs) == 5
        # Stepping over them reads thousands.
        assert max(sql.blocks) < 1000, sql.blocks

    async def test_next_due_in_the_far_future(self, emptied_dsn: str, world: World) -> None:
        with psycopg.connect(emptied_dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO pgqueuer (priority, status, entrypoint, execute_after)"
                " VALUES (0, 'queued', 'a', 'infinity')"
            )
        claimed = await world.claim()
        assert claimed.jobs == []
        assert claimed.next_due is not None
        assert claimed.next_due > timedelta(days=36_000).total_seconds()


def _backend_on(pool: ConnectionPool[Any]) -> StoreBackend:
    backend = PsycopgDriver(pool).backend(Settings())
    assert isinstance(backend, StoreBackend)
    return backend


async def _no_time(seconds: float) -> None:
    await anyio.sleep(seconds)
