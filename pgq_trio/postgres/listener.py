"""Receives notifications on a session of its own; knows channels, not what payloads mean."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel
from psycopg import errors as e, generators, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgq_trio.postgres.connection import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from typing import Self

    from psycopg import Notify
    from psycopg.abc import ConnParam

__all__ = ["Listener", "listen"]

#: A listener only receives, so that without probes it would never notice that the server is gone.
#: The first probe goes out after 30 s of silence; three without an answer, 10 s apart, end it.
_KEEPALIVES: Final[Mapping[str, ConnParam]] = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}

#: NAMEDATALEN - 1: longer identifiers are cut by LISTEN but refused by `pg_notify`.
_LONGEST_CHANNEL: Final = 63


class Listener:
    """An endless async iterator over the notifications of one session; made by `listen`."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._received: deque[Notify] = deque()
        connection.add_notify_handler(self._received.append)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notify:
        """The next notification.

        Raises:
            psycopg.OperationalError: the connection is lost. What was sent meanwhile is lost too,
                so look at the state that it tells of after listening anew.

        Cancellation: no notification is lost; iterate again to go on.
        """
        connection = self._connection
        # Here, and not behind it, where a cancellation would lose what was taken.
        await anyio.lowlevel.checkpoint()
        while not self._received:
            if connection.closed:
                raise e.OperationalError("the connection of the listener is lost")
            async with connection.lock:
                if not self._received:
                    await connection.wait(generators.notifies(connection.pgconn))
        return self._received.popleft()

    async def listen(self, *channels: str) -> None:
        """Listen to further channels; returns once the server has acknowledged it.

        Raises:
            ValueError: a name is empty, or longer than 63 bytes.
            psycopg.OperationalError: the connection is lost.
        """
        statements = [sql.SQL("LISTEN {}").format(_channel(channel)) for channel in channels]
        await self._connection.execute(sql.SQL("; ").join(statements))


@asynccontextmanager
async def listen(
    conninfo: str | Mapping[str, ConnParam] = "", *channels: str, **connect_kw: ConnParam
) -> AsyncGenerator[Listener]:
    """A block that listens to channels; it gives an async iterator of `psycopg.Notify`.

    It has a connection of its own, so that notifications wait for no statement. On entering, the
    server has acknowledged the LISTEN: whatever commits afterwards is received. Over TCP, keepalive
    probes find out within a minute that the server is gone, unless `keepalives` and its kin are
    given. Waiting costs nothing while nothing comes.

    It does not reconnect: when the connection is lost, iterating raises, and what was sent until
    one listens again is not received. The caller enters a new block and then looks at the state
    that the notifications tell of. Payloads are not looked at.

    Args:
        conninfo: a libpq connection string or URL, or libpq's parameters as a mapping.
        channels: their names, taken literally (case, spaces and quotes count).
        connect_kw: further libpq parameters.

    Raises:
        ValueError: no channel is given, or a name is empty or longer than 63 bytes.
        psycopg.OperationalError: on entering, as `connect`; while iterating, the connection is
            lost.

    Cancellation: closes the connection; while iterating, no notification is lost.
    """
    if not channels:
        raise ValueError("a listener needs at least one channel")
    for channel in channels:
        _channel(channel)
    if isinstance(conninfo, str):
        connect_kw = {**conninfo_to_dict(conninfo), **connect_kw}
    else:
        connect_kw = {**conninfo, **connect_kw}
    conninfo = make_conninfo("", **{**_KEEPALIVES, **connect_kw})
    async with await Connection[Any].connect(conninfo, autocommit=True) as connection:
        listener = Listener(connection)
        await listener.listen(*channels)
        yield listener


def _channel(name: str) -> sql.Identifier:
    size = len(name.encode())
    if not 0 < size <= _LONGEST_CHANNEL or "\0" in name:
        raise ValueError(
            f"the name of a channel has 1 to {_LONGEST_CHANNEL} bytes, none of them zero,"
            f" got {name!r}"
        )
    return sql.Identifier(name)
