"""Cancelled anywhere, the asyncpg drivers leave connection, pool and server in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import asyncpg
import psycopg
import pytest

from pgq_trio.abc import Backend
from pgq_trio.db import AsyncpgDriver
from pgq_trio.store import asyncpg_sql, batches
from pgq_trio.store.asyncpg_sql import AsyncpgConnectionSql, AsyncpgPoolSql
from pgq_trio.testing import cancel_at_each_step
from tests.store.asyncpg_kinds import Kind, kind, open_kind, world
from tests.store.asyncpg_world import (
    asyncpg_connection,
    asyncpg_pool,
    connect_args,
)
from tests.store.world import PATIENCE, World, new

__all__ = ["kind", "open_kind", "world"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncpg runs on asyncio only."""
    return "asyncio"


class TestCancellation:
    """Each operation, cancelled at each of its steps, leaves connection and pool in order."""

    @pytest.mark.parametrize(
        "operation", ["enqueue", "batch", "claim", "cancel", "look", "script", "listen"]
    )
    async def test_everywhere(
        self, kind: Kind, operation: str, monkeypatch: pytest.MonkeyPatch, emptied_dsn: str
    ) -> None:
        if operation == "batch":
            monkeypatch.setattr(batches, "MAX_CHUNK_JOBS", 1)
        backend = kind.backend
        world = World(backend, _no_time)
        await world.enqueue(new(key="first"))
        operations: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "enqueue": lambda: _ignore(world.enqueue(new())),
            "batch": lambda: _ignore(world.enqueue(new("b"), new("b"))),
            "claim": lambda: _ignore(world.claim({"a": 1})),
            "cancel": lambda: _ignore(backend.jobs.cancel([1, 2])),
            "look": lambda: _ignore(backend.jobs.queue_size()),
            "script": lambda: _ignore(backend.schema.install()),
            "listen": lambda: _listen(backend),
        }

        async def check() -> None:
            with anyio.fail_after(PATIENCE * 2):
                assert await backend.jobs.failed_jobs(limit=1) == []
                sizes = await backend.jobs.queue_size()
            assert sum(size.count for size in sizes if size.entrypoint == "b") % 2 == 0
            if isinstance(kind.driver, AsyncpgDriver):
                assert not kind.target.is_in_transaction()
                assert not kind.target.is_closed()
            else:
                assert kind.target.get_idle_size() == kind.target.get_size()

        steps = await cancel_at_each_step(operations[operation], check)
        assert sum(steps.values()) > 2

    async def test_a_statement_under_way(self, kind: Kind, emptied_dsn: str) -> None:
        world = World(kind.backend, _no_time)
        [job] = await world.enqueue_ids(new())
        with psycopg.connect(emptied_dsn) as other:
            other.execute("SELECT FROM pgqueuer WHERE id = %s FOR UPDATE", [job])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kind.backend.jobs.cancel, [job])
                with anyio.fail_after(PATIENCE):
                    while not _somebody_waits(other):
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            # The server has given up, and so the row is free for others.
            assert not _somebody_waits(other)
            other.rollback()
        assert await kind.backend.jobs.cancel([job]) == {job}

    async def test_it_is_over_on_the_server_as_well(self, emptied_dsn: str, world: World) -> None:
        await world.enqueue(new())
        async with asyncpg_connection(emptied_dsn) as connection:
            sql = AsyncpgConnectionSql(connection)
            with psycopg.connect(emptied_dsn) as other:
                other.execute("SELECT FROM pgqueuer FOR UPDATE")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(sql.fetch, "UPDATE pgqueuer SET priority = 1")
                    with anyio.fail_after(PATIENCE):
                        while not _somebody_waits(other):
                            await anyio.sleep(0.01)
                    tasks.cancel_scope.cancel()
                assert not _somebody_waits(other)

    async def test_a_server_that_does_not_answer(
        self, emptied_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then the connection is closed, and a pool opens another one."""
        monkeypatch.setattr(asyncpg_sql, "_CLEANUP_LIMIT", 0.1)
        async with asyncpg_pool(emptied_dsn, max_size=1) as pool:
            sql = AsyncpgPoolSql(pool)
            monkeypatch.setattr(asyncpg_sql, "_NOTHING", "SELECT pg_sleep(60)")
            with anyio.move_on_after(0.2):
                await sql.fetch("SELECT pg_sleep(60)")
            with anyio.fail_after(PATIENCE):
                assert await sql.fetch("SELECT 1") == [(1,)]

    async def test_a_connection_whose_server_does_not_answer_is_closed(
        self, emptied_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody could use it: what was cancelled still runs on it."""
        monkeypatch.setattr(asyncpg_sql, "_CLEANUP_LIMIT", 0.1)
        silence = "SELECT pg_sleep(60)"

        async def statement(sql: AsyncpgConnectionSql) -> None:
            await sql.fetch(silence)

        async def block(sql: AsyncpgConnectionSql) -> None:
            async with sql.transaction():
                await anyio.sleep_forever()

        monkeypatch.setattr(asyncpg_sql, "_NOTHING", silence)
        monkeypatch.setattr(asyncpg_sql, "_TRANSACTION", ("BEGIN", "COMMIT", silence))
        for operation in (statement, block):
            async with asyncpg_connection(emptied_dsn) as connection:
                with anyio.fail_after(PATIENCE), anyio.move_on_after(0.2):
                    await operation(AsyncpgConnectionSql(connection))
                assert connection.is_closed(), operation

    async def test_a_connection_that_cannot_be_reset_is_replaced(
        self, emptied_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(asyncpg_sql, "_CLEANUP_LIMIT", 0.1)
        reset: list[Any] = []

        async def never(connection: Any) -> None:
            reset.append(connection)
            if len(reset) == 1:
                with suppress(asyncpg.ConnectionDoesNotExistError):
                    await connection.execute("SELECT pg_sleep(60)")

        args = connect_args(emptied_dsn)
        async with asyncpg.create_pool(**args, min_size=1, max_size=1, reset=never) as pool:
            sql = AsyncpgPoolSql(pool)
            with anyio.fail_after(PATIENCE):
                [(first,)] = await sql.fetch("SELECT pg_backend_pid()")
                [(second,)] = await sql.fetch("SELECT pg_backend_pid()")
        assert first != second


async def _ignore(operation: Awaitable[object]) -> None:
    await operation


async def _listen(backend: Backend) -> None:
    async with backend.notifier.listen() as payloads:
        await backend.jobs.enqueue([new()], on_conflict="raise")
        await payloads.__anext__()


def _somebody_waits(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return row is not None and row[0] > 0


async def _no_time(seconds: float) -> None:
    raise NotImplementedError(seconds)
