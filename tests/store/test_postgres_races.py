"""What two transactions do to the same rows on PostgreSQL: rechecks and orders of locks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import psycopg
import pytest

from pgq_trio.db import PsycopgDriver
from pgq_trio.model.outcomes import SUCCESSFUL, Finished, Outcome
from pgq_trio.models import Job
from pgq_trio.postgres import connect, open_pool
from pgq_trio.postgres.sql_port import Row
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.postgres_jobs import PostgresJobs
from pgq_trio.store.postgres_sql import PoolSql
from pgq_trio.types import OnConflict
from tests.store.postgres_world import pool_world
from tests.store.world import ALICE, PATIENCE, World, fence, ids_of, new

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def world(emptied_dsn: str) -> AsyncIterator[World]:
    async with pool_world(emptied_dsn, Settings()) as world:
        yield world


async def until_somebody_waits(connection: Connection) -> None:
    """Wait until a statement in this database waits for a lock."""
    with anyio.fail_after(PATIENCE):
        while True:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            [(waiting,)] = await cursor.fetchall()
            if waiting:
                return
            await anyio.sleep(0.01)


class _WaitingSql:
    """A port whose claims wait, once they have their snapshot, for an advisory lock."""

    def __init__(self, sql: PoolSql) -> None:
        self.sql = sql

    async def fetch(self, statement: str, params: Sequence[object] = ()) -> list[Row]:
        names = "(SELECT $2::text[])"
        assert names in statement
        slow = f"(SELECT $2::text[] FROM pg_advisory_xact_lock({GATE}))"
        return await self.sql.fetch(statement.replace(names, slow, 1), params)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        return self.sql.transaction()

    async def run_script(self, statements: Sequence[str]) -> None:
        await self.sql.run_script(statements)

    def listen(self, *channels: str) -> AbstractAsyncContextManager[Any]:
        return self.sql.listen(*channels)


#: The advisory lock that claims wait for.
GATE = 4711


class TestClaimRace:
    @pytest.mark.parametrize("limits", [{"a": 0}, {"a": 3}])
    @pytest.mark.parametrize("deferred", [0, 1500])
    async def test_a_job_that_was_retried_meanwhile_keeps_its_delay(
        self, emptied_dsn: str, world: World, limits: dict[str, int], deferred: int
    ) -> None:
        """With many deferred jobs the claim reads the due ones by time, else by priority."""
        await world.enqueue(*(new(after=timedelta(hours=1)) for _ in range(deferred)))
        moved, stays = await world.enqueue_ids(new(), new())
        claimed: list[Job] = []
        async with (
            open_pool(emptied_dsn, max_size=2, autocommit=True) as pool,
            await connect(emptied_dsn, autocommit=True) as other,
        ):
            backend = PsycopgDriver(pool).backend(Settings())
            assert isinstance(backend, StoreBackend)
            jobs = PostgresJobs(_WaitingSql(PoolSql(pool)), Settings())
            slow = World(replace(backend, jobs=jobs), world.pass_time)

            async def claim() -> None:
                claimed.extend((await slow.claim(limits, batch=5)).jobs)

            await other.execute(f"SELECT pg_advisory_lock({GATE})".encode())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim)
                await until_somebody_waits(other)
                # Another worker ran it, and its handler asks for a retry in an hour.
                await other.execute(
                    "UPDATE pgqueuer SET attempts = 1, updated = now(),"
                    " execute_after = now() + interval '1 hour' WHERE id = %s",
                    [moved],
                )
                await other.execute(f"SELECT pg_advisory_unlock({GATE})".encode())
        assert ids_of(claimed) == [stays]


async def _free_rows(connection: Connection) -> list[int]:
    """The ids of rows that nobody has locked."""
    async with connection.transaction(force_rollback=True):
        cursor = await connection.execute(
            "SELECT id FROM pgqueuer ORDER BY id FOR UPDATE SKIP LOCKED"
        )
        return [row[0] for row in await cursor.fetchall()]


class TestOrderOfLocks:
    """Statements on the same rows lock them in one order, so that they never form a circle."""

    @pytest.mark.parametrize("name", ["heartbeat", "release", "finish", "mixed"])
    async def test_claims_are_locked_in_the_order_of_ids(
        self, emptied_dsn: str, world: World, name: str
    ) -> None:
        await world.enqueue(*(new() for _ in range(6)))
        jobs = (await world.claim()).jobs[::-1]
        ids = sorted(ids_of(jobs))
        claims = [fence(job) for job in jobs]
        # What is kept comes first by id, and last in the batch.
        outcomes = [SUCCESSFUL if job.id > ids[2] else Outcome("retry") for job in jobs]
        store = world.backend.jobs
        operations: dict[str, Callable[[], Awaitable[set[int]]]] = {
            "heartbeat": lambda: store.heartbeat(ALICE, claims),
            "release": lambda: store.release(ALICE, claims),
            "finish": lambda: store.finish(ALICE, [Finished(x, SUCCESSFUL) for x in claims]),
            "mixed": lambda: store.finish(
                ALICE, [Finished(x, y) for x, y in zip(claims, outcomes, strict=True)]
            ),
        }
        done: set[int] = set()

        async def operate() -> None:
            done.update(await operations[name]())

        async with (
            await connect(emptied_dsn) as holder,
            await connect(emptied_dsn, autocommit=True) as watcher,
            anyio.create_task_group() as tasks,
        ):
            await holder.execute("SELECT FROM pgqueuer WHERE id = %s FOR UPDATE", [ids[4]])
            tasks.start_soon(operate)
            await until_somebody_waits(watcher)
            assert await _free_rows(watcher) == ids[5:]
            await holder.rollback()
        assert done == set(ids)

    async def test_raised_priorities_are_locked_in_the_order_of_keys(
        self, emptied_dsn: str, world: World
    ) -> None:
        ids = await world.enqueue_ids(*(new(key=key) for key in "dbca"))
        async with (
            await connect(emptied_dsn) as holder,
            await connect(emptied_dsn, autocommit=True) as watcher,
            anyio.create_task_group() as tasks,
        ):
            await holder.execute("SELECT FROM pgqueuer WHERE dedupe_key = 'c' FOR UPDATE")
            tasks.start_soon(_enqueue, world, "dcba", "update_priority")
            await until_somebody_waits(watcher)
            assert await _free_rows(watcher) == ids[:1]  # that of "d"
            await holder.rollback()

    @pytest.mark.parametrize("on_conflict", ["skip", "update_priority"])
    async def test_new_keys_are_inserted_in_their_order(
        self, emptied_dsn: str, world: World, on_conflict: OnConflict
    ) -> None:
        insert = "INSERT INTO pgqueuer (priority, status, entrypoint, dedupe_key) VALUES (0, %s)"
        values = "'queued', 'a', '{}'"
        async with (
            await connect(emptied_dsn) as holder,
            await connect(emptied_dsn, autocommit=True) as watcher,
            anyio.create_task_group() as tasks,
        ):
            await holder.execute((insert % values.format("b")).encode())
            tasks.start_soon(_enqueue, world, "cba", on_conflict)
            await until_somebody_waits(watcher)
            await watcher.execute("SET lock_timeout = '200ms'")
            await watcher.execute((insert % values.format("c")).encode())
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await watcher.execute((insert % values.format("a")).encode())
            await holder.rollback()
        assert await world.queued() == 3


async def _enqueue(world: World, keys: str, on_conflict: OnConflict) -> None:
    await world.enqueue(*(new(key=key) for key in keys), on_conflict=on_conflict)
