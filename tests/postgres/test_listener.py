"""Notifications arrive, none is lost while the connection lives, and its loss is not silent."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgq_trio.postgres import Connection, Listener, connect, listen
from tests.postgres.helpers import SOON

pytestmark = pytest.mark.anyio


async def notify(connection: Connection[Any], channel: str, payload: str = "") -> None:
    await connection.execute("SELECT pg_notify(%s, %s)", [channel, payload])


async def receive(listener: Listener, count: int) -> list[tuple[str, str]]:
    received: list[tuple[str, str]] = []
    with anyio.fail_after(SOON):
        while len(received) < count:
            notification = await anext(listener)
            received.append((notification.channel, notification.payload))
    return received


async def test_acknowledged_before_the_block_begins(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as sender, listen(dsn, "news") as listener:
        await notify(sender, "news", "at once")
        assert await receive(listener, 1) == [("news", "at once")]


async def test_two_channels(dsn: str) -> None:
    async with (
        await connect(dsn, autocommit=True) as sender,
        listen(dsn, "one", "two") as listener,
    ):
        for channel in ("one", "other", "two"):
            await notify(sender, channel)
        assert await receive(listener, 2) == [("one", ""), ("two", "")]


async def test_further_channels(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as sender, listen(dsn, "one") as listener:
        await notify(sender, "one", "before")
        await listener.listen("two")
        await notify(sender, "two", "after")
        assert await receive(listener, 2) == [("one", "before"), ("two", "after")]


@pytest.mark.parametrize("channel", ["MixedCase", "with space", 'with"quote', "a;b", "é" * 31])
async def test_names_are_taken_literally(dsn: str, channel: str) -> None:
    async with await connect(dsn, autocommit=True) as sender, listen(dsn, channel) as listener:
        await notify(sender, channel, "x")
        assert await receive(listener, 1) == [(channel, "x")]


@pytest.mark.parametrize("channels", [(), ("",), ("x" * 64,), ("é" * 32,), ("a\0b",)])
async def test_names_that_cannot_be(dsn: str, channels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="channel"):
        async with listen(dsn, *channels):
            raise AssertionError


async def test_parameters_as_a_mapping(dsn: str) -> None:
    async with (
        await connect(dsn, autocommit=True) as sender,
        listen(conninfo_to_dict(dsn), "news", application_name="listener") as listener,
    ):
        await notify(sender, "news")
        assert await receive(listener, 1) == [("news", "")]


async def test_many_at_once_in_order(dsn: str) -> None:
    async with await connect(dsn) as sender, listen(dsn, "news") as listener:
        for number in range(500):
            await notify(sender, "news", str(number))
        await sender.commit()
        assert await receive(listener, 500) == [("news", str(number)) for number in range(500)]


async def test_cancelled_iterations_lose_nothing(dsn: str) -> None:
    received: list[int] = []
    async with await connect(dsn, autocommit=True) as sender, listen(dsn, "news") as listener:

        async def send() -> None:
            for number in range(200):
                await notify(sender, "news", str(number))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(send)
                while len(received) < 200:
                    with anyio.move_on_after(0.0005):
                        async for notification in listener:
                            received.append(int(notification.payload))  # noqa: PERF401
    assert received == list(range(200))


async def test_two_tasks_share_the_notifications(dsn: str) -> None:
    received: list[str] = []

    async def take(listener: Listener) -> None:
        received.append((await anext(listener)).payload)

    async with await connect(dsn) as sender, listen(dsn, "news") as listener:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(take, listener)
                group.start_soon(take, listener)
                await anyio.wait_all_tasks_blocked()
                await notify(sender, "news", "1")
                await notify(sender, "news", "2")
                await sender.commit()
    assert sorted(received) == ["1", "2"]


async def test_a_lost_connection_raises(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as killer, listen(dsn, "news") as listener:
        await notify(killer, "news", "the last one")
        assert await receive(listener, 1) == [("news", "the last one")]
        await killer.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(2):
            with anyio.fail_after(SOON), pytest.raises(psycopg.OperationalError):
                await anext(listener)


async def test_lost_while_waiting(dsn: str) -> None:
    async def wait(listener: Listener) -> None:
        with pytest.raises(psycopg.OperationalError):
            await anext(listener)

    async with await connect(dsn, autocommit=True) as killer, listen(dsn, "news") as listener:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(wait, listener)
                await anyio.wait_all_tasks_blocked()
                await killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )


async def test_keepalives_unless_given(dsn: str) -> None:
    async with listen(dsn, "news") as listener:
        parameters = listener._connection.info.get_parameters()
        assert parameters["keepalives_idle"] == "30"
        assert parameters["keepalives_interval"] == "10"
        assert parameters["keepalives_count"] == "3"
    async with listen(f"{dsn} keepalives_idle=5", "news", keepalives_count=9) as listener:
        parameters = listener._connection.info.get_parameters()
        assert parameters["keepalives_idle"] == "5"
        assert parameters["keepalives_count"] == "9"


async def test_closed_at_the_end(dsn: str) -> None:
    async with listen(dsn, "news") as listener:
        pass
    with pytest.raises(psycopg.OperationalError):
        await anext(listener)
