"""Each operation, cancelled at each of its steps, leaves a usable connection and a whole pool."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from pgq_trio.postgres import Connection, connect, listen, open_pool
from pgq_trio.testing import cancel_at_each_step
from tests.postgres.helpers import TransactionStatus, assert_usable, open_sockets, rows_of, scalar

pytestmark = pytest.mark.anyio

Operation = Callable[[Connection[Any]], Coroutine[Any, Any, None]]


async def query(connection: Connection[Any]) -> None:
    await connection.execute("SELECT %s::int FROM pg_sleep(0.002)", [1])


async def two_queries(connection: Connection[Any]) -> None:
    await connection.execute("INSERT INTO t VALUES (1)")
    await connection.execute("INSERT INTO t VALUES (2)")
    await connection.commit()


async def transaction(connection: Connection[Any]) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (2)")


async def failing_transaction(connection: Connection[Any]) -> None:
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


async def copy_in(connection: Connection[Any]) -> None:
    async with connection.transaction():
        async with connection.cursor().copy("COPY wide FROM STDIN") as copy:
            for _ in range(3):
                await copy.write("x" * 1_000_000 + "\n")
        await connection.execute("INSERT INTO t VALUES (1), (2)")


async def copy_out(connection: Connection[Any]) -> None:
    query = "COPY (SELECT generate_series(1, 30000)) TO STDOUT"
    async with connection.cursor().copy(query) as copy:
        async for _ in copy:
            pass


async def pipeline(connection: Connection[Any]) -> None:
    async with connection.pipeline() as pipe:
        await connection.execute("SELECT 1")
        cursor = await connection.execute("SELECT %s::int", [2])
        await pipe.sync()
        await connection.execute("SELECT 3")
        await cursor.fetchone()


async def pipeline_with_transaction(connection: Connection[Any]) -> None:
    async with connection.pipeline(), connection.transaction():
        await connection.execute("INSERT INTO t VALUES (%s)", [1])
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (%s)", [2])


async def executemany(connection: Connection[Any]) -> None:
    async with connection.transaction():
        await connection.cursor().executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])


async def stream(connection: Connection[Any]) -> None:
    async with aclosing(rows_of(connection, "SELECT generate_series(1, 3000)")) as rows:
        async for _ in rows:
            pass


async def server_cursor(connection: Connection[Any]) -> None:
    async with connection.transaction(), connection.cursor("c") as cursor:
        await cursor.execute("SELECT generate_series(1, 250)")
        async for _ in cursor:
            pass


async def notifies(connection: Connection[Any]) -> None:
    await connection.execute("LISTEN news")
    await connection.execute("NOTIFY news")
    await connection.commit()
    async with aclosing(connection.notifies(stop_after=1, timeout=5)) as received:
        async for _ in received:
            pass


#: Those in which everything happens in one transaction block.
BLOCKS = {
    transaction,
    failing_transaction,
    copy_in,
    pipeline_with_transaction,
    executemany,
    server_cursor,
}


PIPELINES = {pipeline, pipeline_with_transaction}


@pytest.mark.parametrize("autocommit", [False, True], ids=["plain", "autocommit"])
@pytest.mark.parametrize(
    "operation",
    [
        query,
        two_queries,
        transaction,
        failing_transaction,
        copy_in,
        copy_out,
        pipeline,
        pipeline_with_transaction,
        executemany,
        stream,
        server_cursor,
        notifies,
    ],
)
async def test_connection(dsn: str, operation: Operation, autocommit: bool) -> None:
    async with (
        await connect(dsn, autocommit=True) as observer,
        await connect(dsn, autocommit=autocommit, prepare_threshold=2) as connection,
    ):
        await observer.execute("CREATE TABLE t (a int); CREATE TABLE wide (b text)")

        async def check() -> None:
            status = connection.pgconn.transaction_status
            if operation in BLOCKS:
                assert status == TransactionStatus.IDLE
            await assert_usable(connection)
            if operation in BLOCKS or not autocommit:
                assert await scalar(observer, "SELECT count(*) FROM t") in {0, 2}
            await observer.execute("TRUNCATE t, wide")

        steps = await cancel_at_each_step(lambda: operation(connection), check)
        # A pipeline whose answers are there at once does not wait for any.
        assert sum(steps.values()) >= (1 if operation in PIPELINES else 3)


async def test_connect(dsn: str) -> None:
    before = open_sockets()

    async def operation() -> None:
        async with await connect(dsn):
            pass

    async def check() -> None:
        assert open_sockets() == before

    steps = await cancel_at_each_step(operation, check)
    assert sum(steps.values()) > 2


async def test_pool(dsn: str) -> None:
    async with open_pool(dsn, min_size=0, max_size=2) as pool:

        async def operation() -> None:
            async with pool.connection() as first, pool.connection() as second:
                await first.execute("SELECT 1")
                async with second.transaction():
                    await second.execute("SELECT 1")

        async def check() -> None:
            stats = pool.get_stats()
            assert stats["pool_size"] == stats["pool_available"] <= 2
            assert stats["requests_waiting"] == 0
            async with pool.connection(1.0) as first, pool.connection(1.0) as second:
                assert await scalar(first, "SELECT 1") == 1
                assert await scalar(second, "SELECT 2") == 2

        steps = await cancel_at_each_step(operation, check)
        assert sum(steps.values()) > 8
        assert pool.get_stats()["returns_bad"] == 0


async def test_opening_a_pool(dsn: str) -> None:
    before = open_sockets()

    async def operation() -> None:
        async with open_pool(dsn, min_size=2) as pool, pool.connection() as connection:
            await connection.execute("SELECT 1")

    async def check() -> None:
        assert open_sockets() == before

    steps = await cancel_at_each_step(operation, check)
    assert sum(steps.values()) > 8


async def test_listen(dsn: str) -> None:
    before = open_sockets()

    async def operation() -> None:
        async with listen(dsn, "news"):
            pass

    async def check() -> None:
        assert open_sockets() == before

    steps = await cancel_at_each_step(operation, check)
    assert sum(steps.values()) > 2
