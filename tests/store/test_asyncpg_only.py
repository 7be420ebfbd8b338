"""What only the asyncpg drivers have: the wall, tuning, transactions, what they refuse."""

from __future__ import annotations

import subprocess
import sys

import anyio
import asyncpg
import pytest
import trio

from pgq_trio.abc import Driver
from pgq_trio.db import AsyncpgDriver, AsyncpgPoolDriver
from pgq_trio.errors import (
    BackendNotSupported,
    ConnectionLost,
    DuplicateJobError,
    SchemaMissing,
    StoreError,
)
from pgq_trio.model.outcomes import Outcome
from pgq_trio.postgres.sql_port import ConstraintViolated
from pgq_trio.settings import Settings
from pgq_trio.store import batches
from pgq_trio.store.asyncpg_errors import translate_asyncpg
from pgq_trio.store.asyncpg_sql import AsyncpgConnectionSql, AsyncpgPoolSql
from tests.servers import PostgresServer
from tests.store.asyncpg_kinds import Kind, OpenKind, kind, open_kind, world
from tests.store.asyncpg_world import (
    asyncpg_connection,
    asyncpg_pool,
    connect_args,
)
from tests.store.world import ALICE, World, fence, new

__all__ = ["kind", "open_kind", "world"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncpg runs on asyncio only."""
    return "asyncio"


class TestWall:
    async def test_what_is_closed(self, kind: Kind) -> None:
        backend = kind.backend
        await kind.target.close()
        expected = ConnectionLost if isinstance(kind.driver, AsyncpgDriver) else StoreError
        with pytest.raises(expected) as caught:
            await backend.jobs.enqueue([new()], on_conflict="raise")
        assert not caught.value.retryable
        with pytest.raises(expected):
            await backend.jobs.cancel([1])
        with pytest.raises(expected):
            await backend.schema.install()

    async def test_a_connection_that_breaks(
        self, kind: Kind, postgres_server: PostgresServer
    ) -> None:
        await kind.backend.jobs.queue_size()
        assert postgres_server.kill_backends(application_name="me") == 1
        with pytest.raises(ConnectionLost) as caught:
            # A pool may have noticed, and have a new one.
            while True:
                await kind.backend.jobs.cancel([1])
                postgres_server.kill_backends(application_name="me")
        assert caught.value.retryable

    async def test_a_server_that_is_not_there(self) -> None:
        # Made for a pool that connects late.
        pool = asyncpg.create_pool(host="127.0.0.1", port=1, user="x", min_size=0, max_size=1)
        async with pool:
            backend = AsyncpgPoolDriver(pool).backend(Settings())
            with pytest.raises(ConnectionLost):
                await backend.jobs.queue_size()
            with pytest.raises(ConnectionLost):
                async with backend.notifier.listen():
                    raise AssertionError("nobody listens there")

    async def test_no_tables(self, dsn: str, open_kind: OpenKind) -> None:
        backend = (await open_kind(dsn)).backend
        with pytest.raises(SchemaMissing, match="pgqueuer") as caught:
            await backend.jobs.enqueue([new()], on_conflict="raise")
        assert isinstance(caught.value.__cause__, asyncpg.UndefinedTableError)
        assert await backend.schema.verify() != []
        # The connection is fine, and a later installation is seen.
        await backend.schema.install()
        assert await backend.schema.verify() == []
        assert len(await backend.jobs.enqueue([new()], on_conflict="raise")) == 1

    async def test_what_cannot_be_stored(self, world: World) -> None:
        job = await world.claimed_one()
        for record in ('{"a": "\\u0000"}', "no JSON", "nul \x00"):
            with pytest.raises(StoreError) as caught:
                await world.finish([job], Outcome("exception", record))
            assert not caught.value.retryable
        with pytest.raises(StoreError):
            await world.backend.jobs.cancel([2**70])
        assert await world.finish([job]) == {job.id}

    async def test_a_connection_that_its_pool_has_back(self, emptied_dsn: str) -> None:
        async with asyncpg_pool(emptied_dsn) as pool:
            async with pool.acquire() as connection:
                backend = AsyncpgDriver(connection).backend(Settings())
                listening = backend.notifier.listen()
                await listening.__aenter__()
                await listening.__aexit__(None, None, None)
            for operation in (backend.jobs.queue_size, backend.schema.install):
                with pytest.raises(StoreError, match="released back to the pool"):
                    await operation()
            with pytest.raises(StoreError, match="released back to the pool"):
                async with backend.notifier.listen():
                    raise AssertionError("nobody listens there")

    async def test_a_transaction_that_is_aborted(self, emptied_dsn: str) -> None:
        async with asyncpg_connection(emptied_dsn) as connection:
            backend = AsyncpgDriver(connection).backend(Settings())
            transaction = connection.transaction()
            await transaction.start()
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.execute("SELECT 1 / 0")
            with pytest.raises(StoreError, match="aborted"):
                await backend.jobs.cancel([1])
            await transaction.rollback()
            assert await backend.jobs.cancel([1]) == set()

    @pytest.mark.parametrize(
        ("error", "expected", "retryable"),
        [
            (asyncpg.DeadlockDetectedError("x"), StoreError, True),
            (asyncpg.SerializationError("x"), StoreError, True),
            (asyncpg.TooManyConnectionsError("x"), StoreError, True),
            (TimeoutError(), StoreError, True),
            (asyncpg.PostgresSyntaxError("x"), StoreError, False),
            (asyncpg.InsufficientPrivilegeError("x"), StoreError, False),
            (asyncpg.InvalidPasswordError("x"), StoreError, False),
            (asyncpg.InterfaceError("pool is closed"), StoreError, False),
            (asyncpg.InternalClientError("x"), StoreError, False),
            (asyncpg.UnknownPostgresError("x"), StoreError, False),
            (asyncpg.AdminShutdownError("x"), ConnectionLost, True),
            (asyncpg.CannotConnectNowError("x"), ConnectionLost, True),
            (asyncpg.ConnectionDoesNotExistError("x"), ConnectionLost, True),
            (ConnectionRefusedError(111, "refused"), ConnectionLost, True),
            (TimeoutError(110, "timed out"), ConnectionLost, True),
            (asyncpg.UndefinedColumnError("no column x"), SchemaMissing, None),
            (asyncpg.UndefinedFunctionError("no function x"), SchemaMissing, None),
            (asyncpg.InvalidSchemaNameError("no schema x"), SchemaMissing, None),
            (asyncpg.UniqueViolationError("x"), ConstraintViolated, False),
        ],
    )
    def test_what_errors_mean(
        self, error: Exception, expected: type[Exception], retryable: bool | None
    ) -> None:
        translated = translate_asyncpg(error)
        assert type(translated) is expected
        assert getattr(translated, "retryable", None) is retryable

    async def test_the_constraint_has_its_name(self, kind: Kind) -> None:
        await kind.backend.jobs.enqueue([new(key="k")], on_conflict="raise")
        with pytest.raises(DuplicateJobError):
            await kind.backend.jobs.enqueue([new(key="k")], on_conflict="raise")
        skipped = await kind.backend.jobs.enqueue([new(key="k")], on_conflict="skip")
        assert skipped == [None]


class TestTransactions:
    async def test_part_of_the_callers(self, emptied_dsn: str, world: World) -> None:
        async with asyncpg_connection(emptied_dsn) as connection, world.listening() as heard:
            jobs = AsyncpgDriver(connection).backend(Settings()).jobs
            transaction = connection.transaction()
            await transaction.start()
            ids = await jobs.enqueue([new()], on_conflict="raise")
            assert await jobs.cancel([job_id for job_id in ids if job_id]) == set(ids)
            assert await world.queued() == 0
            await transaction.rollback()
            async with connection.transaction():
                await jobs.enqueue([new(), new()], on_conflict="raise")
                assert await world.queued() == 0
            assert await world.queued() == 2
            await heard.next()
            assert await heard.until_marker() == []

    async def test_a_batch_in_several_statements_is_one_change(
        self, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batches, "MAX_CHUNK_JOBS", 3)
        jobs = kind.backend.jobs
        await jobs.enqueue([new(key=f"k{n}") for n in range(10)], on_conflict="raise")
        with pytest.raises(DuplicateJobError):
            await jobs.enqueue([new(key=key) for key in ("x", "y", "z", "k0")], on_conflict="raise")
        assert [size.count for size in await jobs.queue_size()] == [10]

    async def test_many_tasks_at_once(self, kind: Kind) -> None:
        jobs = kind.backend.jobs
        ids = await jobs.enqueue([new() for _ in range(20)], on_conflict="raise")
        gone: set[int] = set()

        async def cancel(job_id: int) -> None:
            gone.update(await jobs.cancel([job_id]))
            await jobs.queue_size()

        async with anyio.create_task_group() as tasks:
            for job_id in ids:
                assert job_id is not None
                tasks.start_soon(cancel, job_id)
        assert gone == set(ids)


class TestJit:
    async def test_a_connection_is_tuned_once(self, emptied_dsn: str) -> None:
        async with asyncpg_connection(emptied_dsn) as connection:
            sql = AsyncpgConnectionSql(connection)
            async with connection.transaction():
                assert await sql.fetch("SELECT current_setting('jit')") == [("on",)]
            assert await sql.fetch("SELECT current_setting('jit')") == [("off",)]

    async def test_a_pool_each_time(self, emptied_dsn: str) -> None:
        async with asyncpg_pool(emptied_dsn, max_size=1) as pool:
            sql = AsyncpgPoolSql(pool)
            for _ in range(2):
                assert await sql.fetch("SELECT current_setting('jit')") == [("off",)]
            assert await pool.fetchval("SELECT current_setting('jit')") == "on"

    async def test_a_pool_where_it_is_off_is_left_alone(self, emptied_dsn: str) -> None:
        async with asyncpg_pool(emptied_dsn, max_size=1, jit="off") as pool:
            sql = AsyncpgPoolSql(pool)
            await sql.fetch("SELECT 1")
            seen: list[str] = []
            async with pool.acquire() as connection:
                connection.add_query_logger(lambda record: seen.append(record.query))
            assert await sql.fetch("SELECT current_setting('jit')") == [("off",)]
            assert not any("set_config" in statement for statement in seen)


class TestRefusals:
    async def test_something_else(self, emptied_dsn: str) -> None:
        async with asyncpg_pool(emptied_dsn) as pool, asyncpg_connection(emptied_dsn) as one:
            for target, hint in ((pool, "AsyncpgPoolDriver"), (emptied_dsn, "str"), (None, "None")):
                with pytest.raises(TypeError, match=hint):
                    AsyncpgDriver(target)
            for target, hint in ((one, "AsyncpgDriver"), (emptied_dsn, "str"), (None, "None")):
                with pytest.raises(TypeError, match=hint):
                    AsyncpgPoolDriver(target)

    async def test_a_connection_that_a_pool_lends(self, emptied_dsn: str) -> None:
        async with asyncpg_pool(emptied_dsn) as pool, pool.acquire() as connection:
            driver = AsyncpgDriver(connection)
            assert isinstance(driver, Driver)
            assert driver.backend(Settings()) is driver.backend(Settings())
            await driver.backend(Settings()).jobs.enqueue([new()], on_conflict="raise")

    @pytest.mark.parametrize("driver", [AsyncpgDriver, AsyncpgPoolDriver])
    def test_trio(self, driver: type[Driver]) -> None:
        async def main() -> None:
            with pytest.raises(BackendNotSupported, match="PsycopgDriver"):
                driver(object())  # type: ignore[call-arg]

        trio.run(main)

    def test_trio_at_first_use(self, emptied_dsn: str) -> None:
        made: list[Driver] = []

        async def on_asyncio() -> None:
            async with asyncpg_connection(emptied_dsn) as connection:
                made.append(AsyncpgDriver(connection))
            pool = asyncpg.create_pool(**connect_args(emptied_dsn))
            made.append(AsyncpgPoolDriver(pool))

        anyio.run(on_asyncio, backend="asyncio")

        async def on_trio() -> None:
            for driver in made:
                backend = driver.backend(Settings())
                with pytest.raises(BackendNotSupported, match="asyncio only"):
                    await backend.jobs.queue_size()
                with pytest.raises(BackendNotSupported, match="asyncio only"):
                    await backend.jobs.cancel([1])
                with pytest.raises(BackendNotSupported, match="asyncio only"):
                    async with backend.notifier.listen():
                        raise AssertionError("nobody listens there")

        trio.run(on_trio)

    def test_nobody_else_imports_it(self) -> None:
        """Nor the frameworks that SyncQueries works with."""
        wanted = "asyncpg", "django", "sqlalchemy"
        program = f"import sys, pgq_trio; sys.exit(len({set(wanted)!r} & sys.modules.keys()))"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

    @pytest.mark.parametrize("driver", [AsyncpgDriver, AsyncpgPoolDriver])
    def test_asyncpg_is_not_installed(
        self, driver: type[Driver], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "asyncpg", None)
        with pytest.raises(ImportError, match=r"pip install 'pgq-trio\[asyncpg\]'"):
            driver(object())  # type: ignore[call-arg]


class TestClaims:
    async def test_two_workers_on_one_pool(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(30)))
        claimed: list[int] = []

        async def work() -> None:
            while jobs := (await world.claim(batch=4)).jobs:
                claimed.extend(job.id for job in jobs)
                await world.backend.jobs.heartbeat(ALICE, [fence(job) for job in jobs])
                assert await world.finish(jobs) == {job.id for job in jobs}

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(work)
        assert len(claimed) == len(set(claimed)) == 30
