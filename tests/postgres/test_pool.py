"""The pool: how many, in which order, in which state, and what is left of it."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest
from anyio.abc import SocketAttribute, SocketStream
from psycopg.rows import dict_row

from pgq_trio.postgres import (
    Connection,
    ConnectionPool,
    PoolClosed,
    PoolTimeout,
    connect,
    open_pool,
)
from tests.postgres.helpers import SOON, TransactionStatus, scalar, until_gone
from tests.servers import OwnServer

pytestmark = pytest.mark.anyio


async def test_connection_is_kept_for_the_next(dsn: str) -> None:
    async with open_pool(dsn) as pool:
        async with pool.connection() as first:
            pass
        async with pool.connection() as second:
            assert second is first
        assert pool.get_stats() == {
            "pool_min": 1,
            "pool_max": 8,
            "pool_size": 1,
            "pool_available": 1,
            "requests_waiting": 0,
            "requests_num": 2,
            "requests_queued": 0,
            "requests_wait_ms": 0,
            "requests_errors": 0,
            "usage_ms": pool.get_stats()["usage_ms"],
            "returns_bad": 0,
            "connections_num": 1,
            "connections_ms": pool.get_stats()["connections_ms"],
            "connections_errors": 0,
            "connections_lost": 0,
        }
    assert first.closed
    assert pool.closed
    assert pool.get_stats()["pool_size"] == 0


async def test_leaving_commits(dsn: str) -> None:
    async with open_pool(dsn) as pool:
        async with pool.connection() as connection:
            await connection.execute("CREATE TABLE t (a int)")
        assert connection.is_at_rest()
        async with pool.connection() as connection:
            assert await scalar(connection, "SELECT count(*) FROM t") == 0


async def test_leaving_by_an_error_rolls_back(dsn: str) -> None:
    async with open_pool(dsn) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.connection() as connection:
                await connection.execute("CREATE TABLE t (a int)")
                _ = 1 / 0
        assert connection.is_at_rest()
        async with pool.connection() as again:
            assert again is connection
            assert await scalar(again, "SELECT to_regclass('t')") is None


async def test_leaving_by_cancellation_rolls_back(dsn: str) -> None:
    async with open_pool(dsn) as pool:
        with anyio.CancelScope() as scope:
            async with pool.connection() as connection:
                await connection.execute("CREATE TABLE t (a int)")
                scope.cancel()
        assert connection.is_at_rest()
        async with pool.connection() as connection:
            assert await scalar(connection, "SELECT to_regclass('t')") is None


async def test_no_traffic_where_there_is_nothing_to_end(dsn: str) -> None:
    async with open_pool(dsn, autocommit=True) as pool, await connect(dsn) as observer:
        async with pool.connection() as connection:
            await connection.execute("SELECT 'the last statement'")
        query = "SELECT query FROM pg_stat_activity WHERE pid = %s"
        last = await scalar(observer, query, connection.info.backend_pid)
        assert last == "SELECT 'the last statement'"


async def test_options_reach_the_connections(dsn: str) -> None:
    async with (
        open_pool(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=None,
            application_name="pooled",
        ) as pool,
        pool.connection() as connection,
    ):
        assert connection.autocommit
        assert connection.prepare_threshold is None
        cursor = await connection.execute("SHOW application_name")
        assert await cursor.fetchone() == {"application_name": "pooled"}


async def test_never_more_than_max_size(dsn: str) -> None:
    async with open_pool(dsn, min_size=3, max_size=3) as pool:
        used: set[int] = set()
        at_once = peak = 0

        async def work() -> None:
            nonlocal at_once, peak
            async with pool.connection() as connection:
                at_once += 1
                peak = max(peak, at_once)
                used.add(await scalar(connection, "SELECT pg_backend_pid() FROM pg_sleep(0.001)"))
                at_once -= 1

        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(work)
        stats = pool.get_stats()
    assert peak == 3
    assert len(used) == 3
    assert stats["pool_size"] == stats["pool_available"] == 3
    assert stats["requests_num"] == 60
    assert stats["requests_queued"] == 57
    assert stats["connections_num"] == 3


async def test_first_come_first_served(dsn: str) -> None:
    order: list[int] = []

    async def work(pool: ConnectionPool[Any], number: int) -> None:
        async with pool.connection() as connection:
            order.append(number)
            await connection.execute("SELECT 1")

    async with open_pool(dsn, max_size=1) as pool, anyio.create_task_group() as group:
        async with pool.connection():
            for number in range(20):
                group.start_soon(work, pool, number)
                await anyio.wait_all_tasks_blocked()
            # One that comes at the moment of the release must not overtake.
        await work(pool, 20)
    assert order == list(range(21))


async def test_timeout(dsn: str) -> None:
    async with open_pool(dsn, max_size=1, timeout=0.01) as pool, pool.connection():
        with pytest.raises(PoolTimeout, match=r"no connection within 0.01 s: 1 of at most 1"):
            async with pool.connection():
                pass
        with pytest.raises(PoolTimeout):
            async with pool.connection(timeout=0):
                pass
        assert pool.get_stats()["requests_errors"] == 2
        assert pool.get_stats()["requests_waiting"] == 0


async def test_a_cancelled_request_leaves_no_trace(dsn: str) -> None:
    async with open_pool(dsn, max_size=1) as pool:
        async with pool.connection():
            with anyio.move_on_after(0.01):
                async with pool.connection():
                    raise AssertionError
            assert pool.get_stats()["requests_waiting"] == 0
        assert pool.get_stats()["pool_available"] == 1


async def test_served_and_cancelled_at_the_same_moment(dsn: str) -> None:
    """The turn of a request that was cancelled goes to the next one."""
    served: list[str] = []

    async with open_pool(dsn, max_size=1) as pool:

        async def work(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                async with pool.connection():
                    served.append(name)
                    await anyio.lowlevel.checkpoint()

        first, second = anyio.CancelScope(), anyio.CancelScope()
        async with anyio.create_task_group() as group, pool.connection():
            group.start_soon(work, "first", first)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(work, "second", second)
            await anyio.wait_all_tasks_blocked()
            # The block ends without a checkpoint, so that the first one still waits.
            first.cancel()
        assert pool.get_stats()["pool_available"] == 1
        assert served == ["second"]


async def test_killed_connections_are_replaced(dsn: str) -> None:
    async with (
        open_pool(dsn, min_size=3, max_size=3) as pool,
        await connect(dsn, autocommit=True) as killer,
    ):
        await killer.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(4):
            async with pool.connection() as connection:
                assert await scalar(connection, "SELECT 1") == 1
        stats = pool.get_stats()
        assert stats["connections_lost"] == 3
        assert stats["pool_size"] == 1
        assert stats["returns_bad"] == 0


async def test_the_end_is_announced_before_it_comes(own_server: OwnServer) -> None:
    """The server says that it ends a session, and closes the socket some time later."""
    server_gone = anyio.Event()

    async def relay(client: SocketStream) -> None:
        server = await anyio.connect_tcp("127.0.0.1", own_server.port)
        async with client, server, anyio.create_task_group() as group:

            async def upstream() -> None:
                async for data in client:
                    await server.send(data)

            group.start_soon(upstream)
            async for data in server:
                await client.send(data)
            server_gone.set()
            await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, relay)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        dsn = own_server.dsn(host="127.0.0.1", port=port, sslmode="disable")
        async with open_pool(dsn, max_size=1) as pool:
            async with pool.connection() as connection:
                pid = connection.info.backend_pid
            await anyio.to_thread.run_sync(
                own_server.execute, "SELECT pg_terminate_backend(%s, 5000)", pid
            )
            with anyio.fail_after(SOON):
                await server_gone.wait()
                async with pool.connection() as connection:
                    assert await scalar(connection, "SELECT pg_backend_pid()") != pid
            assert pool.get_stats()["connections_lost"] == 1
        group.cancel_scope.cancel()


async def test_killed_while_lent(dsn: str) -> None:
    async with (
        open_pool(dsn, max_size=1) as pool,
        await connect(dsn, autocommit=True) as killer,
    ):
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as connection:
                pid = connection.info.backend_pid
                await killer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                await connection.execute("SELECT 1")
        async with pool.connection() as connection:
            assert await scalar(connection, "SELECT 1") == 1
        assert pool.get_stats()["returns_bad"] == 1


async def test_closed_while_lent(dsn: str) -> None:
    async with open_pool(dsn, max_size=1) as pool:
        async with pool.connection() as connection:
            await connection.close()
        async with pool.connection() as connection:
            assert await scalar(connection, "SELECT 1") == 1


async def test_returned_while_another_task_uses_it(dsn: str) -> None:
    async with open_pool(dsn, max_size=1) as pool:

        async def misuse(connection: Connection[Any]) -> None:
            with pytest.raises(psycopg.OperationalError, match="closed"):
                async for _ in connection.notifies():
                    raise AssertionError

        async with anyio.create_task_group() as group, pool.connection() as connection:
            group.start_soon(misuse, connection)
            await anyio.wait_all_tasks_blocked()
        async with pool.connection() as other:
            assert other is not connection


async def test_max_lifetime(dsn: str) -> None:
    async with open_pool(dsn, max_lifetime=0.0) as pool:
        pids: set[int] = set()
        for _ in range(3):
            async with pool.connection() as connection:
                pids.add(await scalar(connection, "SELECT pg_backend_pid()"))
        assert len(pids) == 3
        assert pool.get_stats()["pool_size"] == 0
        assert pool.get_stats()["returns_bad"] == 0


async def test_max_idle(dsn: str) -> None:
    async with open_pool(dsn, min_size=1, max_size=4, max_idle=0.0) as pool:
        async with pool.connection(), pool.connection(), pool.connection():
            assert pool.get_stats()["pool_size"] == 3
        assert pool.get_stats()["pool_size"] == 1


async def test_closing_while_lent(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as observer:
        async with open_pool(dsn, max_size=1) as pool:
            lent = pool.connection()
            connection = await lent.__aenter__()
        assert await scalar(connection, "SELECT 1") == 1
        pid = connection.info.backend_pid
        await lent.__aexit__(None, None, None)
        assert connection.closed
        assert pool.get_stats()["pool_size"] == 0
        await until_gone(observer, pid)


async def test_closing_while_requests_wait(dsn: str) -> None:
    async def work(pool: ConnectionPool[Any]) -> None:
        with pytest.raises(PoolClosed):
            async with pool.connection():
                raise AssertionError

    async with (
        open_pool(dsn, max_size=1) as pool,
        anyio.create_task_group() as group,
        pool.connection(),
    ):
        group.start_soon(work, pool)
        await anyio.wait_all_tasks_blocked()
        pool.close()
        group.start_soon(work, pool)


async def test_a_connection_that_cannot_be_opened(dsn: str) -> None:
    async with open_pool(dsn, min_size=0, max_size=1, dbname="no_such_database") as pool:
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError, match="no_such_database"):
                async with pool.connection():
                    raise AssertionError
        stats = pool.get_stats()
        assert stats["pool_size"] == 0
        assert stats["connections_errors"] == stats["requests_errors"] == 2


async def test_a_failed_connect_passes_the_slot_on(dsn: str) -> None:
    """Every request gets its own error; none waits for a slot that is never given back."""
    errors: list[BaseException] = []

    async def work(pool: ConnectionPool[Any]) -> None:
        try:
            async with pool.connection():
                raise AssertionError
        except psycopg.OperationalError as exc:
            errors.append(exc)

    async with open_pool(dsn, min_size=0, max_size=1, dbname="no_such_database") as pool:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(work, pool)
    assert len(errors) == 5
    assert not any(isinstance(error, PoolTimeout) for error in errors)


async def test_errors_that_no_retry_mends_come_out_at_once(dsn: str) -> None:
    with anyio.fail_after(SOON), pytest.raises(psycopg.OperationalError, match="nobody"):
        async with open_pool(dsn, user="nobody"):
            raise AssertionError


async def test_opening_gives_up_after_reconnect_timeout(dsn: str) -> None:
    with anyio.fail_after(SOON):
        with pytest.raises(psycopg.OperationalError) as caught:
            async with open_pool(dsn, host="127.0.0.1", port=1, reconnect_timeout=0.3):
                raise AssertionError
        assert "refused" in str(caught.value)
        assert "0.3 s" in caught.value.__notes__[0]


async def test_opening_waits_for_the_server(own_server: OwnServer) -> None:
    own_server.stop()
    opened = anyio.Event()

    async def use() -> None:
        async with open_pool(own_server.tcp_dsn()) as pool, pool.connection() as connection:
            assert await scalar(connection, "SELECT 1") == 1
            opened.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(own_server.start)
            await opened.wait()


async def test_server_restart(own_server: OwnServer) -> None:
    async with open_pool(own_server.dsn(), min_size=3) as pool:
        await anyio.to_thread.run_sync(own_server.restart)
        async with pool.connection() as connection:
            assert await scalar(connection, "SELECT 1") == 1
        assert pool.get_stats()["connections_lost"] == 3


async def test_a_failed_commit_comes_out(dsn: str) -> None:
    async with open_pool(dsn, max_size=1) as pool:
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with pool.connection() as connection:
                await connection.execute(
                    "CREATE TEMP TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
                )
                await connection.execute("INSERT INTO t VALUES (1), (1)")
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert pool.get_stats()["pool_available"] == 1


async def test_many_cancelled_requests_of_a_busy_pool(dsn: str) -> None:
    async with open_pool(dsn, max_size=2, autocommit=True) as pool:

        async def work(number: int) -> None:
            with anyio.move_on_after(number % 7 / 1000):
                async with pool.connection() as connection:
                    await connection.execute("SELECT pg_sleep(0.002)")

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(work, number)
        stats = pool.get_stats()
        assert stats["pool_size"] == stats["pool_available"] <= 2
        assert stats["requests_waiting"] == 0


@pytest.mark.parametrize(("min_size", "max_size"), [(2, 1), (-1, 1), (0, 0)])
async def test_sizes_that_contradict_each_other(min_size: int, max_size: int) -> None:
    with pytest.raises(ValueError, match="min_size"):
        open_pool(min_size=min_size, max_size=max_size)
