"""What psycopg's connections do, they do on both event loops."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import AsyncRawCursor, sql
from psycopg.rows import dict_row

from pgq_trio.postgres import Connection, connect
from tests.postgres.helpers import (
    SOON,
    TransactionStatus,
    assert_usable,
    rows_of,
    scalar,
    state_of,
)

pytestmark = pytest.mark.anyio


def give_up(transaction: psycopg.AsyncTransaction) -> None:
    """Roll back the block, which goes on behind its end (type checkers do not know that)."""
    raise psycopg.Rollback(transaction)


async def test_query_with_parameters(dsn: str) -> None:
    async with await connect(dsn) as connection:
        cursor = await connection.execute("SELECT %s::int + 1, %s::text", [41, "é"])
        assert await cursor.fetchall() == [(42, "é")]


async def test_leaving_commits_and_closes(dsn: str) -> None:
    async with await connect(dsn) as connection:
        await connection.execute("CREATE TABLE t (a int)")
    assert connection.closed
    assert not connection.broken
    async with await connect(dsn) as connection:
        assert await scalar(connection, "SELECT count(*) FROM t") == 0


async def test_leaving_by_an_error_rolls_back_and_closes(dsn: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await connect(dsn) as connection:
            await connection.execute("CREATE TABLE t (a int)")
            _ = 1 / 0
    assert connection.closed
    async with await connect(dsn) as connection:
        assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_a_commit_that_fails_closes_too(dsn: str) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with await connect(dsn) as connection:
            await connection.execute(
                "CREATE TEMP TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
            )
            await connection.execute("INSERT INTO t VALUES (1), (1)")
    assert connection.closed


async def test_options_of_connect(dsn: str) -> None:
    async with await connect(
        dsn,
        autocommit=True,
        row_factory=dict_row,
        cursor_factory=AsyncRawCursor,
        prepare_threshold=0,
        application_name="options",
    ) as connection:
        assert connection.autocommit
        cursor = await connection.execute("SELECT $1::int AS a", [1])
        assert await cursor.fetchone() == {"a": 1}
        cursor = await connection.execute("SELECT count(*) AS n FROM pg_prepared_statements")
        assert await cursor.fetchone() == {"n": 2}
        assert connection.info.get_parameters()["application_name"] == "options"


async def test_adapters_of_a_context(dsn: str) -> None:
    async with await connect(dsn) as first:
        first.adapters.register_loader("int4", psycopg.types.string.TextLoader)
        async with await connect(dsn, context=first) as second:
            assert await scalar(second, "SELECT 1") == "1"


async def test_statements_are_prepared(dsn: str) -> None:
    async with await connect(dsn, prepare_threshold=1) as connection:
        for number in range(4):
            assert await scalar(connection, "SELECT %s::int", number) == number
        count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"
        assert await scalar(connection, count, "SELECT $1::int") == 1


async def test_binary_results(dsn: str) -> None:
    async with await connect(dsn) as connection:
        cursor = await connection.execute("SELECT %b::int8, 'x'::bytea", [2**40], binary=True)
        assert await cursor.fetchone() == (2**40, b"x")


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
async def test_copy_both_ways(dsn: str, binary: bool) -> None:
    rows = [(number, f"row {number}\t\\") for number in range(20_000)]
    kind = sql.SQL("(FORMAT binary)" if binary else "")
    async with await connect(dsn) as connection:
        await connection.execute("CREATE TEMP TABLE t (a int4, b text)")
        cursor = connection.cursor()
        async with cursor.copy(sql.SQL("COPY t FROM STDIN {}").format(kind)) as copy:
            copy.set_types(["int4", "text"])
            for row in rows:
                await copy.write_row(row)
        assert cursor.rowcount == len(rows)
        async with cursor.copy(sql.SQL("COPY t TO STDOUT {}").format(kind)) as copy:
            copy.set_types(["int4", "text"])
            assert [row async for row in copy.rows()] == rows
        await assert_usable(connection)


async def test_copy_of_large_blocks(dsn: str) -> None:
    block = b"x" * 1_000_000
    async with await connect(dsn) as connection:
        await connection.execute("CREATE TEMP TABLE t (a text)")
        async with connection.cursor().copy("COPY t FROM STDIN") as copy:
            for _ in range(8):
                await copy.write(block + b"\n")
        assert await scalar(connection, "SELECT sum(length(a)) FROM t") == 8_000_000


async def test_copy_discarded_by_an_error(dsn: str) -> None:
    async with await connect(dsn) as connection:
        await connection.execute("CREATE TABLE t (a int)")
        await connection.commit()
        with pytest.raises(ZeroDivisionError):
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write_row((1,))
                _ = 1 / 0
        await assert_usable(connection)
        assert await scalar(connection, "SELECT count(*) FROM t") == 0


async def test_copy_refused_by_the_server(dsn: str) -> None:
    async with await connect(dsn) as connection:
        await connection.execute("CREATE TABLE t (a int CHECK (a > 0))")
        await connection.commit()
        with pytest.raises(psycopg.errors.CheckViolation):
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write_row((-1,))
        await assert_usable(connection)


async def test_copy_out_left_early(dsn: str) -> None:
    """psycopg itself leaves the connection waiting for rows here."""
    async with await connect(dsn) as connection:
        query = "COPY (SELECT generate_series(1, 10000000)) TO STDOUT"
        async with connection.cursor().copy(query) as copy:
            await copy.read_row()
        await assert_usable(connection)


async def test_pipeline(dsn: str) -> None:
    async with await connect(dsn) as connection:
        async with connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", [n]) for n in range(50)]
            assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]
        await assert_usable(connection)


async def test_pipeline_with_an_error(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with connection.pipeline() as pipeline:
                await connection.execute("SELECT 1 / 0")
                await pipeline.sync()
        await assert_usable(connection)


async def test_pipeline_around_transactions(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE TABLE t (a int)")
        async with connection.pipeline():
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO t VALUES (2)")
                    _ = 1 / 0
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (3)")
        cursor = await connection.execute("SELECT a FROM t ORDER BY a")
        assert await cursor.fetchall() == [(1,), (3,)]


async def test_executemany(dsn: str) -> None:
    async with await connect(dsn) as connection:
        cursor = connection.cursor()
        await cursor.execute("CREATE TEMP TABLE t (a int)")
        await cursor.executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(3000)])
        assert cursor.rowcount == 3000
        await cursor.executemany("SELECT %s::int", [(1,), (2,)], returning=True)
        assert [await result.fetchone() async for result in cursor.results()] == [(1,), (2,)]
        await assert_usable(connection)


async def test_nested_transactions(dsn: str) -> None:
    async with await connect(dsn) as connection:
        await connection.execute("CREATE TABLE t (a int)")
        await connection.commit()
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(psycopg.errors.DivisionByZero):
                async with connection.transaction():
                    await connection.execute("INSERT INTO t VALUES (2)")
                    await connection.execute("SELECT 1 / 0")
            async with connection.transaction("named", force_rollback=True):
                await connection.execute("INSERT INTO t VALUES (3)")
            async with connection.transaction() as inner:
                await connection.execute("INSERT INTO t VALUES (4)")
                give_up(inner)
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (5)")
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        cursor = await connection.execute("SELECT a FROM t ORDER BY a")
        assert await cursor.fetchall() == [(1,), (5,)]


async def test_server_side_cursor(dsn: str) -> None:
    async with await connect(dsn) as connection:
        async with connection.cursor("numbers", scrollable=True) as cursor:
            await cursor.execute("SELECT generate_series(1, 300)")
            assert await cursor.fetchone() == (1,)
            assert len(await cursor.fetchmany(99)) == 99
            await cursor.scroll(-100)
            assert [row[0] async for row in cursor] == list(range(1, 301))
        assert await scalar(connection, "SELECT count(*) FROM pg_cursors") == 0


async def test_stream_to_the_end(dsn: str) -> None:
    async with await connect(dsn) as connection:
        cursor = connection.cursor()
        rows = [row async for row in cursor.stream("SELECT generate_series(1, 500)", size=100)]
        assert rows == [(number,) for number in range(1, 501)]
        await assert_usable(connection)


async def test_stream_left_early(dsn: str) -> None:
    async with await connect(dsn) as connection:
        query = "SELECT generate_series(1, 10000000)"
        async with aclosing(rows_of(connection, query)) as rows:
            async for row in rows:
                assert row == (1,)
                break
        await assert_usable(connection)


async def test_notifies(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as connection:
        await connection.execute("LISTEN news")
        await connection.execute("SELECT pg_notify('news', 'first')")
        received = [n async for n in connection.notifies(timeout=SOON, stop_after=1)]
        assert [(n.channel, n.payload) for n in received] == [("news", "first")]
        assert [n async for n in connection.notifies(timeout=0)] == []
        assert [n async for n in connection.notifies(timeout=0.01)] == []
        async with await connect(dsn, autocommit=True) as other:
            await other.execute("SELECT pg_notify('news', 'second')")
        received = [n async for n in connection.notifies(timeout=SOON, stop_after=1)]
        assert received[0].payload == "second"


async def test_two_phase_commit(dsn: str) -> None:
    async with await connect(dsn) as connection:
        if await scalar(connection, "SHOW max_prepared_transactions") == "0":
            pytest.skip("the server of PGQ_TEST_DSN has max_prepared_transactions = 0")
        xid = connection.xid(1, "gtrid", "bqual")
        await connection.execute("CREATE TABLE t (a int)")
        await connection.commit()
        await connection.tpc_begin(xid)
        await connection.execute("INSERT INTO t VALUES (1)")
        await connection.tpc_prepare()
        await connection.tpc_commit()
        assert await scalar(connection, "SELECT count(*) FROM t") == 1


async def test_session_attributes(dsn: str) -> None:
    async with await connect(dsn) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        await connection.set_read_only(True)
        assert await scalar(connection, "SHOW transaction_isolation") == "serializable"
        await connection.rollback()
        await connection.set_autocommit(True)
        assert await scalar(connection, "SHOW transaction_read_only") == "off"


async def test_many_tasks_share_a_connection(dsn: str) -> None:
    """asyncio.Lock, which psycopg has, fails on Trio at the first contention."""
    got: list[int] = []

    async def ask(connection: Connection[Any], number: int) -> None:
        got.append(await scalar(connection, "SELECT %s::int FROM pg_sleep(0.001)", number))

    async with await connect(dsn, autocommit=True) as connection:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(ask, connection, number)
        await assert_usable(connection)
    assert sorted(got) == list(range(50))


async def test_a_long_copy_lets_other_tasks_run(dsn: str) -> None:
    gaps: list[float] = []

    async def watch() -> None:
        last = anyio.current_time()
        while True:
            await anyio.lowlevel.checkpoint()
            gaps.append(anyio.current_time() - last)
            last = anyio.current_time()

    async with await connect(dsn) as connection, anyio.create_task_group() as group:
        await connection.execute("CREATE TEMP TABLE t (a int)")
        group.start_soon(watch)
        async with connection.cursor().copy("COPY t FROM STDIN") as copy:
            for number in range(100_000):
                await copy.write_row((number,))
        group.cancel_scope.cancel()
    assert len(gaps) > 10
    assert sorted(gaps)[-len(gaps) // 20] < 0.05


async def test_backpressure_on_the_socket(dsn: str) -> None:
    """The server reads no further while it waits, so that both directions have to be waited for."""
    async with await connect(dsn, autocommit=True) as connection, await connect(dsn) as holder:
        await holder.execute("CREATE TABLE t (a text)")
        await holder.commit()
        await holder.execute("LOCK TABLE t")

        async def insert() -> None:
            async with connection.pipeline():
                for _ in range(64):
                    await connection.execute("INSERT INTO t VALUES (%s)", ["x" * 500_000])

        async with anyio.create_task_group() as group:
            group.start_soon(insert)
            await anyio.wait_all_tasks_blocked()
            await holder.commit()
        assert await scalar(connection, "SELECT count(*) FROM t") == 64


async def test_closing_wakes_who_waits(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as observer:
        connection = await connect(dsn, autocommit=True)
        pid = connection.info.backend_pid
        await connection.execute("LISTEN nothing")

        async def wait_for_ever() -> None:
            with pytest.raises(psycopg.OperationalError, match="closed"):
                async for _ in connection.notifies():
                    pass

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(wait_for_ever)
                await anyio.wait_all_tasks_blocked()
                await connection.close()
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await connection.execute("SELECT 1")
        while await state_of(observer, pid) is not None:
            await anyio.lowlevel.checkpoint()


async def test_closing_twice(dsn: str) -> None:
    connection = await connect(dsn)
    await connection.close()
    await connection.close()
    assert connection.closed


async def test_a_killed_session_raises(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as killer:
        connection = await connect(dsn)
        await killer.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        assert not connection.probe()
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
        assert connection.broken
        async with connection:
            pass
