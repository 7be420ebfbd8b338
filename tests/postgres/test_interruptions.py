"""Interruptions that are not AnyIO's: Ctrl-C, asyncio's `Task.cancel`, dropped generators."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings
from typing import Any

import anyio
import psycopg
import pytest

from pgq_trio.postgres import Connection, connect, listen, open_pool
from tests.postgres.helpers import (
    SOON,
    TransactionStatus,
    assert_usable,
    open_sockets,
    rows_of,
    scalar,
    until_waiting_in,
)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_keyboard_interrupt(dsn: str, backend: str) -> None:
    states: list[Any] = []

    async def press_when_it_sleeps(pid: int) -> None:
        async with await connect(dsn, autocommit=True) as observer:
            await until_waiting_in(observer, pid, "PgSleep")
        os.kill(os.getpid(), signal.SIGINT)

    async def main() -> None:
        async with await connect(dsn) as connection, anyio.create_task_group() as group:
            group.start_soon(press_when_it_sleeps, connection.info.backend_pid)
            try:
                await connection.execute("SELECT pg_sleep(60)")
            finally:
                states.append(connection.pgconn.transaction_status)
                group.cancel_scope.cancel()

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):  # as the event loop will
        anyio.run(main, backend=backend)
    assert states == [TransactionStatus.INERROR]


def test_asyncio_task_cancel(dsn: str) -> None:
    async def main() -> None:
        async with (
            await connect(dsn, autocommit=True) as observer,
            await connect(dsn) as connection,
        ):

            async def work() -> None:
                async with connection.transaction():
                    await connection.execute("SELECT pg_sleep(60)")

            task = asyncio.create_task(work())
            await until_waiting_in(observer, connection.info.backend_pid, "PgSleep")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert connection.pgconn.transaction_status == TransactionStatus.IDLE
            await assert_usable(connection)

    asyncio.run(main())


def test_asyncio_task_cancelled_again_during_cleanup(dsn: str) -> None:
    """No shield holds against it: the connection is closed, not left in an unknown state."""

    async def main() -> None:
        async with await connect(dsn, autocommit=True) as observer:
            for turns in range(12):
                connection = await connect(dsn)

                async def work(connection: Connection[Any] = connection) -> None:
                    async with connection, connection.transaction():
                        await connection.execute("SELECT pg_sleep(60)")

                task = asyncio.create_task(work())
                await until_waiting_in(observer, connection.info.backend_pid, "PgSleep")
                task.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert connection.closed

    asyncio.run(main())


def test_asyncio_task_cancelled_while_it_waits_for_the_lock(dsn: str) -> None:
    """The cancellation is raised after the cleanup, not swallowed by it."""

    async def main() -> None:
        async with await connect(dsn) as connection:
            started = asyncio.Event()
            blocked = asyncio.Event()

            async def hold() -> None:
                async with connection.lock:
                    started.set()
                    await blocked.wait()

            async def work() -> None:
                async with connection.transaction():
                    holder = asyncio.create_task(hold())
                    await started.wait()
                    task = asyncio.current_task()
                    assert task is not None
                    asyncio.get_running_loop().call_later(0.01, task.cancel)
                    asyncio.get_running_loop().call_later(0.05, blocked.set)
                    holder.add_done_callback(lambda _: None)
                    raise ZeroDivisionError

            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(work())
            await assert_usable(connection)

    asyncio.run(main())


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["stream", "notifies"])
async def test_a_dropped_generator_frees_the_connection(dsn: str, kind: str) -> None:
    """psycopg's are async generators; without `aclosing`, the event loop closes them."""

    async def use(connection: Connection[Any]) -> None:
        if kind == "stream":
            async for _ in connection.cursor().stream("SELECT generate_series(1, 1000000)"):
                break
        else:
            await connection.execute("LISTEN news")
            await connection.execute("NOTIFY news")
            async for _ in connection.notifies():
                break

    async with await connect(dsn, autocommit=True) as connection:
        with warnings.catch_warnings():
            # Trio's, and it is right: `aclosing` is missing.
            warnings.simplefilter("ignore", ResourceWarning)
            await use(connection)
            gc.collect()
        with anyio.fail_after(SOON):
            assert await scalar(connection, "SELECT 1") == 1
        await assert_usable(connection)


@pytest.mark.anyio
async def test_a_kept_generator_does_not_hold_up_the_end_of_a_block(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock, and nobody will go on with it: psycopg itself waits for ever here."""
    monkeypatch.setattr("pgq_trio.postgres.interruptible.CLEANUP_LIMIT", 0.1)
    connection = await connect(dsn)
    rows = rows_of(connection, "SELECT generate_series(1, 1000)")
    with anyio.fail_after(SOON):
        with pytest.raises(ZeroDivisionError):
            async with connection, connection.transaction():
                await anext(rows)
                raise ZeroDivisionError
        assert connection.closed
        await rows.aclose()


@pytest.mark.anyio
async def test_no_socket_is_left(dsn: str) -> None:
    gc.collect()
    before = open_sockets()
    async with await connect(dsn) as connection:
        with anyio.move_on_after(0.02):
            await connection.execute("SELECT pg_sleep(60)")
    async with open_pool(dsn, min_size=3) as pool, pool.connection() as connection:
        await connection.execute("SELECT 1")
    async with listen(dsn, "news"):
        pass
    for parameters in ("dbname=no_such_database", "host=127.0.0.1 port=1"):
        with pytest.raises(psycopg.OperationalError):
            await connect(f"{dsn} {parameters}")
    assert open_sockets() == before
