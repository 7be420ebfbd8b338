"""How sessions are opened: `connect` for one, `open_pool` for many; knows parameters, not SQL."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from pgq_trio.postgres.connection import Connection
from pgq_trio.postgres.pool import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from psycopg import AsyncCursor
    from psycopg.abc import AdaptContext, ConnParam
    from psycopg.rows import AsyncRowFactory, Row, TupleRow

__all__ = ["connect", "open_pool"]


@overload
async def connect(
    conninfo: str = "",
    *,
    autocommit: bool = ...,
    prepare_threshold: int | None = ...,
    context: AdaptContext | None = ...,
    row_factory: AsyncRowFactory[Row],
    cursor_factory: type[AsyncCursor[Row]] | None = ...,
    **connect_kw: ConnParam,
) -> Connection[Row]: ...


@overload
async def connect(
    conninfo: str = "",
    *,
    autocommit: bool = ...,
    prepare_threshold: int | None = ...,
    context: AdaptContext | None = ...,
    row_factory: None = ...,
    cursor_factory: type[AsyncCursor[TupleRow]] | None = ...,
    **connect_kw: ConnParam,
) -> Connection[TupleRow]: ...


async def connect(
    conninfo: str = "",
    *,
    autocommit: bool = False,
    prepare_threshold: int | None = 5,
    context: AdaptContext | None = None,
    row_factory: AsyncRowFactory[Any] | None = None,
    cursor_factory: type[AsyncCursor[Any]] | None = None,
    **connect_kw: ConnParam,
) -> Connection[Any]:
    """Open one session: `connection = await connect(...)`, or `async with await connect(...)`.

    The block commits when left normally, rolls back on an exception, and closes the connection.

    Args:
        conninfo: a libpq connection string or URL; what it leaves out comes from libpq's
            environment variables.
        autocommit: whether each statement is a transaction of its own.
        prepare_threshold: after how many runs a statement is prepared; None is never.
        context: whose adapters to copy.
        row_factory: what makes rows; tuples if None.
        cursor_factory: the class of cursors.
        connect_kw: further libpq parameters, which override those of `conninfo`.
            `connect_timeout` is in whole seconds per attempt: at least 2, and 130 if it is 0 or
            not given; each address of each host is one attempt.

    Raises:
        psycopg.errors.ConnectionTimeout: no answer within `connect_timeout`.
        psycopg.OperationalError: no server could be reached, or it refused; with more than one
            attempt, the text lists them all.
        psycopg.ProgrammingError: the parameters are malformed.

    Cancellation: closes the socket of the attempt that is under way.
    """
    return await Connection[Any].connect(
        conninfo,
        autocommit=autocommit,
        prepare_threshold=prepare_threshold,
        context=context,
        row_factory=row_factory,
        cursor_factory=cursor_factory,
        **connect_kw,
    )


@overload
def open_pool(
    conninfo: str = "",
    *,
    min_size: int = ...,
    max_size: int = ...,
    max_lifetime: float = ...,
    max_idle: float = ...,
    reconnect_timeout: float = ...,
    timeout: float = ...,
    autocommit: bool = ...,
    prepare_threshold: int | None = ...,
    context: AdaptContext | None = ...,
    row_factory: AsyncRowFactory[Row],
    cursor_factory: type[AsyncCursor[Row]] | None = ...,
    **connect_kw: ConnParam,
) -> AbstractAsyncContextManager[ConnectionPool[Row]]: ...


@overload
def open_pool(
    conninfo: str = "",
    *,
    min_size: int = ...,
    max_size: int = ...,
    max_lifetime: float = ...,
    max_idle: float = ...,
    reconnect_timeout: float = ...,
    timeout: float = ...,
    autocommit: bool = ...,
    prepare_threshold: int | None = ...,
    context: AdaptContext | None = ...,
    row_factory: None = ...,
    cursor_factory: type[AsyncCursor[TupleRow]] | None = ...,
    **connect_kw: ConnParam,
) -> AbstractAsyncContextManager[ConnectionPool[TupleRow]]: ...


def open_pool(
    conninfo: str = "",
    *,
    min_size: int = 1,
    max_size: int = 8,
    max_lifetime: float = 3600.0,
    max_idle: float = 600.0,
    reconnect_timeout: float = 300.0,
    timeout: float = 30.0,
    autocommit: bool = False,
    prepare_threshold: int | None = 5,
    context: AdaptContext | None = None,
    row_factory: AsyncRowFactory[Any] | None = None,
    cursor_factory: type[AsyncCursor[Any]] | None = None,
    **connect_kw: ConnParam,
) -> AbstractAsyncContextManager[ConnectionPool[Any]]:
    """A block with a pool of connections, all closed when it ends.

    The pool has no task of its own: connections are opened, checked and closed by those who ask
    for one and give it back. Connections that are lent when the block ends close on their return.

    Args:
        conninfo: as for `connect`, like the last five.
        min_size: connections opened before the block begins, and kept.
        max_size: connections at most; further requests wait for one.
        max_lifetime: seconds after which a connection is replaced (up to 5 % less, at random).
        max_idle: seconds after which an unused connection above `min_size` is closed; looked at
            when another one comes back.
        reconnect_timeout: seconds to wait at the beginning for a server that is down or starting
            up; 0 is a single attempt. Later failures to connect come out of `connection()` at once.
        timeout: seconds a request waits for a connection before it gets `PoolTimeout`.

    Raises:
        psycopg.OperationalError: on entering, if no connection could be opened within
            `reconnect_timeout`, or no retry would mend it (a wrong password, an unknown database).
        ValueError: the sizes contradict each other.

    Cancellation: while entering, what was opened is closed.
    """
    pool = ConnectionPool[Any](
        partial(
            connect,
            conninfo,
            autocommit=autocommit,
            prepare_threshold=prepare_threshold,
            context=context,
            row_factory=row_factory,
            cursor_factory=cursor_factory,
            **connect_kw,
        ),
        min_size=min_size,
        max_size=max_size,
        max_lifetime=max_lifetime,
        max_idle=max_idle,
        timeout=timeout,
    )
    return _opened(pool, reconnect_timeout)


@asynccontextmanager
async def _opened(
    pool: ConnectionPool[Any], reconnect_timeout: float
) -> AsyncGenerator[ConnectionPool[Any]]:
    try:
        await pool.fill(reconnect_timeout)
        yield pool
    finally:
        pool.close()
