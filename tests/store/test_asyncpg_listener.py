"""How the asyncpg drivers listen: what they hear, what they leave behind, and what breaks them."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import asyncpg
import psycopg
import pytest

from pgq_trio.db import AsyncpgDriver
from pgq_trio.errors import (
    ListenerLost,
    StoreError,
)
from pgq_trio.settings import Settings
from pgq_trio.store import asyncpg_sql
from pgq_trio.store.asyncpg_listener import Payloads
from pgq_trio.store.asyncpg_sql import AsyncpgConnectionSql, AsyncpgPoolSql
from pgq_trio.testing import cancel_at_each_step
from tests.servers import OwnServer, PostgresServer
from tests.store.asyncpg_kinds import Kind, kind, open_kind
from tests.store.asyncpg_world import (
    asyncpg_connection,
    connect_args,
)
from tests.store.world import PATIENCE, new

__all__ = ["kind", "open_kind"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncpg runs on asyncio only."""
    return "asyncio"


class TestListener:
    async def test_a_broken_connection_is_told(
        self, kind: Kind, postgres_server: PostgresServer
    ) -> None:
        async with kind.backend.notifier.listen() as payloads:
            await kind.backend.jobs.enqueue([new()], on_conflict="raise")
            with anyio.fail_after(PATIENCE):
                assert "insert" in await payloads.__anext__()
            postgres_server.kill_backends(application_name="me")
            with anyio.fail_after(PATIENCE), pytest.raises(ListenerLost):
                await payloads.__anext__()

    async def test_statements_run_beside_it(self, kind: Kind) -> None:
        async with kind.backend.notifier.listen() as payloads, kind.backend.notifier.listen():
            for _ in range(3):
                await kind.backend.jobs.enqueue([new()], on_conflict="raise")
            with anyio.fail_after(PATIENCE):
                heard = [await payloads.__anext__() for _ in range(3)]
        assert len(heard) == 3
        # Left behind is nothing: a connection with listeners would warn when its pool gets it.
        if isinstance(kind.driver, AsyncpgDriver):
            assert await kind.target.fetch("SELECT pg_listening_channels()") == []

    async def test_it_listens_elsewhere(self, kind: Kind, emptied_dsn: str) -> None:
        settings = Settings(listen_dsn=emptied_dsn + " application_name=elsewhere")
        async with kind.driver.backend(settings).notifier.listen() as payloads:
            await kind.backend.jobs.enqueue([new()], on_conflict="raise")
            with anyio.fail_after(PATIENCE):
                assert "insert" in await payloads.__anext__()
            with psycopg.connect(emptied_dsn) as observer:
                found = observer.execute(
                    "SELECT query FROM pg_stat_activity WHERE application_name = 'elsewhere'"
                ).fetchall()
            assert [row[0].startswith("LISTEN") for row in found] == [True]

    async def test_an_error_in_the_block_comes_out_as_it_is(self, kind: Kind) -> None:
        with pytest.raises(ZeroDivisionError):
            async with kind.backend.notifier.listen():
                raise ZeroDivisionError

    async def test_an_entry_that_is_cancelled_leaves_nothing(self, emptied_dsn: str) -> None:
        async with asyncpg_connection(emptied_dsn) as connection:
            sql = AsyncpgConnectionSql(connection)
            await sql.fetch("SELECT 1")

            async def enter() -> None:
                async with sql.listen("a", "b", "c"):
                    pass

            async def check() -> None:
                assert not connection._listeners
                assert not connection._termination_listeners
                assert await connection.fetch("SELECT pg_listening_channels()") == []

            steps = await cancel_at_each_step(enter, check)
            assert sum(steps.values()) > 4

    async def test_a_connection_that_is_busy_when_it_ends(
        self, emptied_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not waited for, and its next turn removes what is left."""
        monkeypatch.setattr(asyncpg_sql, "_CLEANUP_LIMIT", 0.1)
        async with asyncpg_connection(emptied_dsn) as connection:
            sql = AsyncpgConnectionSql(connection)
            begun, over = anyio.Event(), anyio.Event()

            async def another_task() -> None:
                async with sql.transaction() as session:
                    begun.set()
                    await over.wait()
                    await session.fetch("SELECT pg_notify('channel', 'x')")

            async with anyio.create_task_group() as tasks:
                with anyio.fail_after(PATIENCE):
                    async with sql.listen("channel") as payloads:
                        tasks.start_soon(another_task)
                        await begun.wait()
                assert not connection._termination_listeners
                over.set()
            assert not connection.is_closed()
            await sql.fetch("SELECT 1")
            assert not connection._listeners
            assert await connection.fetch("SELECT pg_listening_channels()") == []
            # What came meanwhile is not kept.
            assert isinstance(payloads, Payloads)
            assert not payloads._received

    async def test_another_listener_goes_on(self, emptied_dsn: str) -> None:
        async with asyncpg_connection(emptied_dsn) as connection:
            sql = AsyncpgConnectionSql(connection)
            async with sql.listen("channel") as payloads:
                async with sql.listen("channel"):
                    pass
                await sql.fetch("SELECT pg_notify('channel', 'x')")
                with anyio.fail_after(PATIENCE):
                    assert await payloads.__anext__() == "x"

    async def test_inside_of_a_transaction(self, emptied_dsn: str) -> None:
        async with asyncpg_connection(emptied_dsn) as connection, connection.transaction():
            notifier = AsyncpgDriver(connection).backend(Settings()).notifier
            with pytest.raises(StoreError, match="commit"):
                async with notifier.listen():
                    raise AssertionError("it would hear nothing")

    async def test_a_pools_listener_would_notice_that_a_host_is_gone(
        self, own_server: OwnServer
    ) -> None:
        """TCP probes it; the connections for statements are as the pool makes them."""
        made: list[Any] = []

        async def init(connection: Any) -> None:
            made.append(connection)

        args = connect_args(own_server.tcp_dsn())
        async with (
            asyncpg.create_pool(**args, min_size=1, max_size=1, init=init) as pool,
            AsyncpgPoolSql(pool).listen("channel"),
        ):
            sockets = [one._transport.get_extra_info("socket") for one in made]
            # The listener's is made last.
            assert [
                found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for found in sockets
            ] == [0, 1]
            assert sockets[1].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
