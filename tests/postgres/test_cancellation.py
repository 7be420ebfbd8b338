"""A cancelled statement ends on the server, and its connection can be used again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from pgq_trio.postgres import Connection, connect
from tests.postgres.helpers import (
    SOON,
    TransactionStatus,
    assert_usable,
    rows_of,
    scalar,
    state_of,
    until_waiting_in,
)

pytestmark = pytest.mark.anyio

Body = Callable[[Connection[Any]], Coroutine[Any, Any, None]]


async def cancel_while_sleeping(dsn: str, connection: Connection[Any], body: Body) -> None:
    """Run the body, which sleeps on the server, and cancel it there."""
    pid = connection.info.backend_pid
    async with await connect(dsn, autocommit=True) as observer:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(body, connection)
                await until_waiting_in(observer, pid, "PgSleep")
                group.cancel_scope.cancel()
        assert await state_of(observer, pid) in {"idle", "idle in transaction", None} | {
            "idle in transaction (aborted)"
        }


@asynccontextmanager
async def usable_afterwards(dsn: str, **options: Any) -> AsyncIterator[Connection[Any]]:
    async with await connect(dsn, **options) as connection:
        yield connection
        await assert_usable(connection)


async def test_query(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        await connection.execute("SELECT pg_sleep(60)")

    async with usable_afterwards(dsn) as connection:
        await cancel_while_sleeping(dsn, connection, body)
        assert connection.pgconn.transaction_status == TransactionStatus.INERROR


async def test_query_in_autocommit(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        await connection.execute("SELECT pg_sleep(60)")

    async with usable_afterwards(dsn, autocommit=True) as connection:
        await cancel_while_sleeping(dsn, connection, body)
        assert connection.is_at_rest()


async def test_prepared_statement_is_prepared_anew(dsn: str) -> None:
    query = "SELECT 1 FROM pg_sleep(%s)"

    async def body(connection: Connection[Any]) -> None:
        await connection.execute(query, [60.0])

    async with usable_afterwards(dsn, prepare_threshold=0) as connection:
        for _ in range(3):
            await cancel_while_sleeping(dsn, connection, body)
            await connection.rollback()
            assert await scalar(connection, query, 0.0) == 1
            await connection.commit()


async def test_prepared_statements_of_a_cancelled_pipeline(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        async with connection.pipeline():
            await connection.execute("SELECT pg_sleep(60)")
            await connection.execute("SELECT %s::int", [1])

    async with usable_afterwards(dsn, autocommit=True, prepare_threshold=0) as connection:
        await cancel_while_sleeping(dsn, connection, body)
        assert await scalar(connection, "SELECT %s::int", 2) == 2


async def test_several_statements_of_a_pipeline(dsn: str) -> None:
    """One cancel request ends one statement; the next one after a sync would run."""

    async def body(connection: Connection[Any]) -> None:
        async with connection.pipeline() as pipeline:
            for _ in range(3):
                await connection.execute("SELECT pg_sleep(60)")
                pipeline._enqueue_sync()

    async with usable_afterwards(dsn, autocommit=True) as connection:
        await cancel_while_sleeping(dsn, connection, body)


async def test_transaction_block(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        async with connection.transaction():
            await connection.execute("CREATE TABLE t (a int)")
            async with connection.transaction():
                await connection.execute("SELECT pg_sleep(60)")

    async with usable_afterwards(dsn) as connection:
        await cancel_while_sleeping(dsn, connection, body)
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_transaction_block_goes_on_after_a_cancelled_savepoint(dsn: str) -> None:
    async with usable_afterwards(dsn) as connection:
        async with connection.transaction():
            await connection.execute("CREATE TABLE t (a int)")
            with anyio.move_on_after(0.05):
                async with connection.transaction():
                    await connection.execute("DROP TABLE t")
                    await connection.execute("SELECT pg_sleep(60)")
            await connection.execute("INSERT INTO t VALUES (1)")
        assert await scalar(connection, "SELECT count(*) FROM t") == 1


async def test_transaction_block_cancelled_outside_a_statement(dsn: str) -> None:
    async with usable_afterwards(dsn) as connection:
        with anyio.CancelScope() as scope:
            async with connection.transaction():
                await connection.execute("CREATE TABLE t (a int)")
                scope.cancel()
                await anyio.sleep_forever()
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_transaction_block_cancelled_at_its_end(dsn: str) -> None:
    """What is cancelled before the COMMIT is sent rolls back."""
    async with usable_afterwards(dsn) as connection:
        with anyio.CancelScope() as scope:
            async with connection.transaction():
                await connection.execute("CREATE TABLE t (a int)")
                scope.cancel()
        assert scope.cancelled_caught
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_transaction_in_a_pipeline(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        async with connection.pipeline(), connection.transaction():
            await connection.execute("CREATE TABLE t (a int)")
            await connection.execute("SELECT pg_sleep(60)")

    async with usable_afterwards(dsn, autocommit=True) as connection:
        await cancel_while_sleeping(dsn, connection, body)
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_commit_that_waits(dsn: str) -> None:
    """A COMMIT that is cancelled is awaited for a while; this one ends in time, and holds."""

    async def body(connection: Connection[Any]) -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (0.3)")

    async with usable_afterwards(dsn) as connection:
        await connection.execute("""
            CREATE TABLE t (a float);
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_sleep(NEW.a); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()""")
        await connection.commit()
        await cancel_while_sleeping(dsn, connection, body)
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert await scalar(connection, "SELECT count(*) FROM t") == 1


async def test_copy_in(dsn: str) -> None:
    async with usable_afterwards(dsn) as connection:
        await connection.execute("CREATE TABLE t (a int)")
        await connection.commit()
        with anyio.CancelScope() as scope:
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write_row((1,))
                scope.cancel()
                await anyio.sleep_forever()
        assert connection.pgconn.transaction_status == TransactionStatus.INERROR
        await connection.rollback()
        assert await scalar(connection, "SELECT count(*) FROM t") == 0


async def test_copy_in_while_the_server_does_not_read(dsn: str) -> None:
    async with usable_afterwards(dsn) as connection, await connect(dsn) as holder:
        await connection.execute("CREATE TABLE t (a int)")
        await connection.commit()
        await holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")

        async def write() -> None:
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write_row((1,))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                await until_waiting_in(holder, connection.info.backend_pid, "relation")
                group.cancel_scope.cancel()


async def test_copy_out(dsn: str) -> None:
    query = "COPY (SELECT generate_series(1, 10000000)) TO STDOUT"
    async with usable_afterwards(dsn) as connection:
        with anyio.CancelScope() as scope:
            async with connection.cursor().copy(query) as copy:
                await copy.read_row()
                scope.cancel()
                await anyio.sleep_forever()


async def test_copy_out_that_sleeps(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        query = "COPY (SELECT 1 UNION ALL SELECT 2 FROM pg_sleep(60)) TO STDOUT"
        async with connection.cursor().copy(query) as copy:
            assert [row async for row in copy.rows()] == []

    async with usable_afterwards(dsn) as connection:
        await cancel_while_sleeping(dsn, connection, body)


async def test_stream(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        async with aclosing(rows_of(connection, "SELECT pg_sleep(60)")) as rows:
            async for _ in rows:
                pass

    async with usable_afterwards(dsn) as connection:
        await cancel_while_sleeping(dsn, connection, body)


async def test_stream_cancelled_between_rows(dsn: str) -> None:
    async with usable_afterwards(dsn) as connection:
        with anyio.CancelScope() as scope:
            query = "SELECT generate_series(1, 10000000)"
            async with aclosing(rows_of(connection, query)) as rows:
                async for _ in rows:
                    scope.cancel()
                    await anyio.sleep_forever()


async def test_server_side_cursor(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        async with connection.cursor("c", withhold=True) as cursor:
            await cursor.execute("SELECT 1")
            await connection.commit()
            await connection.execute("SELECT pg_sleep(60)")

    async with usable_afterwards(dsn, autocommit=True) as connection:
        await cancel_while_sleeping(dsn, connection, body)
        assert await scalar(connection, "SELECT count(*) FROM pg_cursors") == 0


async def test_executemany(dsn: str) -> None:
    async def body(connection: Connection[Any]) -> None:
        parameters = ((seconds,) for seconds in (0, 60, 0, 60))
        await connection.cursor().executemany("SELECT pg_sleep(%s)", parameters)

    async with usable_afterwards(dsn, autocommit=True) as connection:
        await cancel_while_sleeping(dsn, connection, body)


async def test_notifies(dsn: str) -> None:
    async with usable_afterwards(dsn, autocommit=True) as connection:
        await connection.execute("LISTEN news")
        with anyio.move_on_after(0.01):
            async with aclosing(connection.notifies()) as notifies:
                async for _ in notifies:
                    pass
        await connection.execute("NOTIFY news")
        received = [n async for n in connection.notifies(timeout=SOON, stop_after=1)]
        assert len(received) == 1


async def test_connection_block_is_closed(dsn: str) -> None:
    with anyio.CancelScope() as scope:
        async with await connect(dsn) as connection:
            await connection.execute("CREATE TABLE t (a int)")
            scope.cancel()
    assert connection.closed
    async with await connect(dsn) as connection:
        assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_tasks_that_wait_for_the_connection_get_it(dsn: str) -> None:
    results: list[int] = []

    async def ask(connection: Connection[Any]) -> None:
        results.append(await scalar(connection, "SELECT 1"))

    async with (
        usable_afterwards(dsn, autocommit=True) as connection,
        await connect(dsn, autocommit=True) as observer,
        anyio.create_task_group() as group,
        anyio.create_task_group() as sleepers,
    ):
        sleepers.start_soon(connection.execute, "SELECT pg_sleep(60)")
        await until_waiting_in(observer, connection.info.backend_pid, "PgSleep")
        sleepers.start_soon(ask, connection)
        group.start_soon(ask, connection)
        await anyio.wait_all_tasks_blocked()
        sleepers.cancel_scope.cancel()
    assert results == [1]


async def test_a_server_that_does_not_cancel(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays unanswered for too long ends with a closed connection, not with a hang."""
    monkeypatch.setattr("pgq_trio.postgres.interruptible.CLEANUP_LIMIT", 0.3)

    stubborn = """
        DO $$ BEGIN
            LOOP
                BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END;
            END LOOP;
        END $$"""
    connection = await connect(dsn)
    with caplog.at_level(logging.WARNING, "pgq_trio.postgres"):
        async with await connect(dsn, autocommit=True) as observer:
            async with anyio.create_task_group() as group:
                group.start_soon(connection.execute, stubborn)
                await until_waiting_in(observer, connection.info.backend_pid, "PgSleep")
                group.cancel_scope.cancel()
            assert connection.closed
            assert connection.broken
            assert "did not end the statement" in caplog.text
            await observer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


async def test_cancel_safe(dsn: str) -> None:
    async with (
        usable_afterwards(dsn, autocommit=True) as connection,
        await connect(dsn, autocommit=True) as observer,
    ):

        async def sleep() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                await connection.execute("SELECT pg_sleep(60)")

        async with anyio.create_task_group() as group:
            group.start_soon(sleep)
            await until_waiting_in(observer, connection.info.backend_pid, "PgSleep")
            await connection.cancel_safe(timeout=SOON)


async def test_cancelled_rollback_in_a_block_that_failed(dsn: str) -> None:
    async with usable_afterwards(dsn) as connection:
        with anyio.CancelScope() as scope:
            async with connection.transaction():
                await connection.execute("SELECT 1")
                scope.cancel()
                raise psycopg.Rollback
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
