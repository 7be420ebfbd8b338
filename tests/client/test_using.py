"""`queries.using(connection)`: asking for work in the caller's own transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import psycopg
import psycopg_pool
import pytest
import sqlalchemy
import trio
from psycopg.rows import dict_row
from psycopg.types.string import TextBinaryLoader

from pgq_trio import AsyncpgPoolDriver, InMemoryDriver, PsycopgDriver, Queries
from pgq_trio.abc import Driver
from pgq_trio.db import SyncPsycopgDriver
from pgq_trio.errors import (
    BackendNotSupported,
    ConnectionLost,
    DuplicateJobError,
    SchemaMissing,
    StoreError,
)
from pgq_trio.postgres import connect, open_pool
from pgq_trio.settings import Settings
from pgq_trio.store import batches
from pgq_trio.testing import cancel_at_each_step
from tests.client.transactions import named_as, payloads_in, serving
from tests.store.asyncpg_world import asyncpg_connection, asyncpg_pool, connect_args

KINDS = ["ours", "ours in autocommit", "psycopg", "asyncpg", "asyncpg of a pool"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A connection with a transaction that the caller has begun."""

    connection: Any
    commit: Callable[[], Awaitable[None]]
    rollback: Callable[[], Awaitable[None]]


async def begin(kind: str, dsn: str, stack: AsyncExitStack) -> Caller:
    """Open a connection, and begin a transaction as its users do."""
    if kind.startswith("asyncpg"):
        if kind.endswith("pool"):
            pool = await stack.enter_async_context(asyncpg_pool(dsn))
            connection: Any = await stack.enter_async_context(pool.acquire())
        else:
            connection = await stack.enter_async_context(asyncpg_connection(dsn))
        transaction = connection.transaction()
        await transaction.start()
        return Caller(connection, transaction.commit, transaction.rollback)
    if kind == "psycopg":
        opened: Any = await psycopg.AsyncConnection.connect(dsn)
    else:
        opened = await connect(dsn, autocommit="autocommit" in kind)
    connection = await stack.enter_async_context(opened)
    if connection.autocommit:
        await connection.execute("BEGIN")
        return Caller(
            connection,
            lambda: connection.execute("COMMIT"),
            lambda: connection.execute("ROLLBACK"),
        )
    # Without a statement of the caller's: psycopg begins with the first one.
    return Caller(connection, connection.commit, connection.rollback)


@pytest.fixture(params=KINDS)
async def caller(
    request: pytest.FixtureRequest, anyio_backend: str, installed_dsn: str
) -> AsyncIterator[Caller]:
    if anyio_backend == "trio" and not request.param.startswith("ours"):
        pytest.skip("psycopg's own connections and asyncpg's run on asyncio only")
    async with AsyncExitStack() as stack:
        yield await begin(request.param, installed_dsn, stack)


@pytest.fixture
async def queries(installed_dsn: str) -> AsyncIterator[Queries]:
    """Queries on a pool of ours."""
    async with open_pool(installed_dsn, autocommit=True) as pool:
        yield Queries(PsycopgDriver(pool))


class TestTransaction:
    async def test_it_is_seen_after_the_commit_and_wakes_a_worker(
        self, caller: Caller, queries: Queries, installed_dsn: str
    ) -> None:
        async with serving(installed_dsn) as ran:
            ids = await queries.using(caller.connection).enqueue("it", b"1")
            assert payloads_in(installed_dsn) == []
            assert await queries.job_status(ids) == []
            await caller.commit()
            assert await ran.until(1) == [b"1"]

    async def test_it_is_gone_after_a_rollback(
        self, caller: Caller, queries: Queries, installed_dsn: str
    ) -> None:
        mine = queries.using(caller.connection)
        [job_id] = await mine.enqueue("it", b"1", headers={"k": 1})
        assert await mine.job_status([job_id]) == [(job_id, "queued")]
        await caller.rollback()
        assert payloads_in(installed_dsn) == []
        assert await queries.queue_log() == []

    async def test_what_takes_several_statements(
        self,
        caller: Caller,
        queries: Queries,
        installed_dsn: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also as the first thing that happens on the connection, nothing is committed."""
        monkeypatch.setattr(batches, "MAX_CHUNK_JOBS", 2)
        [other] = await queries.enqueue("other", b"other")
        mine = queries.using(caller.connection)
        assert await mine.mark_job_as_cancelled(other) == {other}
        await mine.enqueue(["it"] * 5, [b"%d" % n for n in range(5)])
        assert payloads_in(installed_dsn) == [b"other"]
        await caller.rollback()
        assert payloads_in(installed_dsn) == [b"other"]

    async def test_the_first_thing_takes_several_statements(
        self, caller: Caller, queries: Queries, installed_dsn: str
    ) -> None:
        ids = await queries.enqueue("other", b"other")
        await queries.using(caller.connection).mark_job_as_cancelled(ids)
        assert payloads_in(installed_dsn) == [b"other"]
        await caller.commit()
        assert payloads_in(installed_dsn) == []

    async def test_a_failed_batch_leaves_nothing_half_written(
        self,
        caller: Caller,
        queries: Queries,
        installed_dsn: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its statements stood in a savepoint, so that the transaction goes on."""
        monkeypatch.setattr(batches, "MAX_CHUNK_JOBS", 1)
        await queries.enqueue("it", b"0", dedupe_key="k")
        mine = queries.using(caller.connection)
        await mine.enqueue("it", b"1")
        with pytest.raises(DuplicateJobError):
            await mine.enqueue(["it", "it"], [b"2", b"3"], dedupe_key=["x", "k"])
        await mine.enqueue("it", b"4", dedupe_key="x")
        await caller.commit()
        assert payloads_in(installed_dsn) == [b"0", b"1", b"4"]

    async def test_a_taken_key(self, caller: Caller, queries: Queries, installed_dsn: str) -> None:
        await queries.enqueue("it", b"0", dedupe_key="k")
        mine = queries.using(caller.connection)
        assert await mine.enqueue("it", b"1", dedupe_key="k", on_conflict="skip") == [None]
        await mine.enqueue("it", b"2")
        with pytest.raises(DuplicateJobError):
            await mine.enqueue("it", b"3", dedupe_key="k")
        with pytest.raises(StoreError, match="aborted"):
            await mine.enqueue("it", b"4")
        await caller.rollback()
        assert payloads_in(installed_dsn) == [b"0"]

    async def test_the_session_is_left_as_it_is(self, caller: Caller, queries: Queries) -> None:
        await queries.using(caller.connection).enqueue("it")
        if hasattr(caller.connection, "fetchval"):
            assert await caller.connection.fetchval("SELECT current_setting('jit')") == "on"
            return
        cursor = await caller.connection.execute(
            "SELECT current_setting('jit'), (SELECT count(*) FROM pg_prepared_statements)"
        )
        assert await cursor.fetchone() == ("on", 0)

    async def test_settings_stay(self, caller: Caller, installed_dsn: str) -> None:
        async with open_pool(installed_dsn) as pool:
            named = Queries(PsycopgDriver(pool), settings=Settings(prefix="other_"))
            mine = named.using(caller.connection)
            assert type(mine) is Queries
            assert mine.settings == named.settings
            with pytest.raises(SchemaMissing):
                await mine.enqueue("it")

    async def test_rows_are_read_whatever_is_registered(
        self, caller: Caller, queries: Queries
    ) -> None:
        if isinstance(caller.connection, psycopg.AsyncConnection):
            adapters = caller.connection.adapters
            adapters.register_loader("int8", TextBinaryLoader)
            adapters.register_loader("timestamptz", TextBinaryLoader)
            caller.connection.row_factory = dict_row
        mine = queries.using(caller.connection)
        ids = await mine.enqueue(["it"] * 2, execute_after=timedelta(hours=1))
        [first, second] = await mine.queue_log()
        assert [first.job_id, second.job_id] == ids
        assert first.created.tzinfo is not None

    async def test_from_queries_on_asyncpg(
        self, caller: Caller, anyio_backend: str, installed_dsn: str
    ) -> None:
        if anyio_backend == "trio":
            pytest.skip("asyncpg runs on asyncio only")
        async with asyncpg_pool(installed_dsn) as pool:
            queries = Queries(AsyncpgPoolDriver(pool))
            await queries.using(caller.connection).enqueue("it", b"1")
            assert payloads_in(installed_dsn) == []
            await caller.commit()
            assert len(await queries.queue_size()) == 1

    async def test_cancelled_everywhere(
        self, anyio_backend: str, queries: Queries, installed_dsn: str
    ) -> None:
        kinds = KINDS if anyio_backend == "asyncio" else KINDS[:2]
        [other] = await queries.enqueue("other")
        for kind in kinds:
            async with AsyncExitStack() as first:
                current = await begin(kind, installed_dsn, first)
                stacks = [first.pop_all()]

                async def cancel() -> None:
                    await queries.using(current.connection).mark_job_as_cancelled(other)  # noqa: B023

                async def check(kind: str = kind) -> None:
                    nonlocal current
                    await _in_order(current)
                    assert await queries.job_status([other]) == [(other, "queued")]
                    await stacks.pop().aclose()  # noqa: B023
                    async with AsyncExitStack() as stack:
                        current = await begin(kind, installed_dsn, stack)
                        stacks.append(stack.pop_all())  # noqa: B023

                steps = await cancel_at_each_step(cancel, check)
                assert sum(steps.values()) > 4
                await stacks.pop().aclose()


async def _in_order(caller: Caller) -> None:
    """The connection is closed, or does what it is told."""
    connection = caller.connection
    if connection.is_closed() if hasattr(connection, "is_closed") else connection.closed:
        return
    await caller.rollback()
    if hasattr(connection, "fetchval"):
        assert await connection.fetchval("SELECT 42") == 42
    else:
        cursor = await connection.execute("SELECT 42")
        assert await cursor.fetchone() == (42,)
        await connection.rollback()


class TestAutocommit:
    async def test_outside_of_a_transaction_it_is_written_at_once(
        self, anyio_backend: str, queries: Queries, installed_dsn: str
    ) -> None:
        async with AsyncExitStack() as stack:
            opened: list[Any] = [await connect(installed_dsn, autocommit=True)]
            await stack.enter_async_context(opened[0])
            if anyio_backend == "asyncio":
                alien = await psycopg.AsyncConnection.connect(installed_dsn, autocommit=True)
                opened.append(await stack.enter_async_context(alien))
                lent = asyncpg_connection(installed_dsn)
                opened.append(await stack.enter_async_context(lent))
            for number, connection in enumerate(opened, 1):
                [job_id] = await queries.using(connection).enqueue("it")
                assert len(payloads_in(installed_dsn)) == 1, number
                assert await queries.using(connection).mark_job_as_cancelled(job_id) == {job_id}
                assert payloads_in(installed_dsn) == []

    async def test_a_driver_on_a_connection_that_is_not_in_autocommit(
        self, queries: Queries, installed_dsn: str
    ) -> None:
        """Its first operation commits nothing either."""
        ids = await queries.enqueue("it", b"1")
        async with await connect(installed_dsn) as connection:
            await Queries(PsycopgDriver(connection)).mark_job_as_cancelled(ids)
            await connection.rollback()
        assert payloads_in(installed_dsn) == [b"1"]

    async def test_listening(self, queries: Queries, installed_dsn: str) -> None:
        """On a connection of its own, made like the given one."""
        async with await connect(installed_dsn) as connection:
            mine = queries.using(connection)
            async with mine.backend.notifier.listen() as payloads:
                await mine.enqueue("it")
                await connection.commit()
                with anyio.fail_after(10):
                    assert await payloads.__anext__()


class TestRefusals:
    async def test_memory(self, installed_dsn: str) -> None:
        queries = Queries(InMemoryDriver())
        async with await connect(installed_dsn) as connection:
            with pytest.raises(BackendNotSupported, match="InMemoryDriver"):
                queries.using(connection)
        with pytest.raises(BackendNotSupported, match="a driver on PostgreSQL"):
            queries.using(object())

    async def test_wrong_objects(self, queries: Queries, installed_dsn: str) -> None:
        async with open_pool(installed_dsn) as pool:
            pools: list[Any] = [pool, object.__new__(psycopg_pool.AsyncConnectionPool)]
            for wrong in pools:
                with pytest.raises(TypeError, match="a connection that it lends"):
                    queries.using(wrong)
        for wrong in (None, installed_dsn, queries, psycopg.AsyncConnection):
            with pytest.raises(TypeError, match=r"pgq_trio\.postgres, psycopg's AsyncConnection"):
                queries.using(wrong)
        with psycopg.connect(installed_dsn) as blocking:
            with pytest.raises(TypeError, match="SyncQueries"):
                queries.using(blocking)
            engine = sqlalchemy.create_engine("sqlite://")
            with engine.connect() as connection, pytest.raises(TypeError, match="SyncQueries"):
                queries.using(connection)
            engine.dispose()
            with pytest.raises(TypeError, match="async connections"):
                queries.using(named_as("sqlalchemy.ext.asyncio", "AsyncConnection"))
            with pytest.raises(TypeError, match="SyncQueries"):
                Queries(SyncPsycopgDriver(blocking))  # type: ignore[arg-type]

    async def test_a_closed_connection(self, queries: Queries, installed_dsn: str) -> None:
        connection = await connect(installed_dsn)
        await connection.close()
        with pytest.raises(ConnectionLost):
            await queries.using(connection).enqueue("it")

    def test_trio(self, installed_dsn: str) -> None:
        made: list[Any] = []

        async def on_asyncio() -> None:
            async with await psycopg.AsyncConnection.connect(installed_dsn) as connection:
                made.append(connection)
            async with asyncpg_connection(installed_dsn) as lent:
                made.append(lent)
            assert connect_args(installed_dsn)

        anyio.run(on_asyncio, backend="asyncio")

        async def on_trio() -> None:
            async with open_pool(installed_dsn) as pool:
                driver: Driver = PsycopgDriver(pool)
                for connection in made:
                    with pytest.raises(BackendNotSupported, match="asyncio only"):
                        Queries(driver).using(connection)

        trio.run(on_trio)
