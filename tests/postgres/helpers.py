"""What tests of this room share: looking at a session from outside, and from inside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
from psycopg import pq

from pgq_trio.postgres import Connection

TransactionStatus = pq.TransactionStatus

#: Seconds after which something that should happen at once has not happened.
SOON = 10.0


async def scalar(connection: Connection[Any], query: str, *params: object) -> Any:
    """The only value of the only row."""
    cursor = await connection.execute(query.encode(), params or None)
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


def rows_of(connection: Connection[Any], query: str) -> AsyncGenerator[Any]:
    """A `stream`, which psycopg declares as a mere iterator, for `aclosing`."""
    return cast("AsyncGenerator[Any]", connection.cursor().stream(query.encode()))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the condition holds; it is about another process, which sends no event."""
    with anyio.fail_after(SOON):
        while not await condition():
            await anyio.lowlevel.checkpoint()


async def state_of(observer: Connection[Any], pid: int) -> str | None:
    """What the server says about a session; None when there is none."""
    cursor = await observer.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid])
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def until_waiting_in(observer: Connection[Any], pid: int, event: str) -> None:
    """Wait until a session waits for `event`, such as PgSleep."""

    async def waiting() -> bool:
        cursor = await observer.execute(
            "SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [pid]
        )
        row = await cursor.fetchone()
        return row is not None and row[0] == event

    await until(waiting)


async def until_gone(observer: Connection[Any], pid: int) -> None:
    """Wait until the server has ended a session."""

    async def gone() -> bool:
        return await state_of(observer, pid) is None

    await until(gone)


async def assert_usable(connection: Connection[Any]) -> None:
    """The connection is open, owes nothing, and runs statements."""
    assert not connection.closed
    assert connection.pgconn.transaction_status != TransactionStatus.ACTIVE
    assert connection.pgconn.pipeline_status == pq.PipelineStatus.OFF
    assert connection._pipeline is None
    assert connection._num_transactions == 0
    with anyio.fail_after(SOON):
        await connection.rollback()
        assert await scalar(connection, "SELECT 40 + 2") == 42
        await connection.rollback()
    assert connection.is_at_rest()


def open_sockets() -> set[str]:
    """The sockets of this process, as the kernel names them."""
    found: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found
