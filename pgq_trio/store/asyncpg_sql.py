"""The SQL port on asyncpg's connections and pools, which run on asyncio only.

asyncpg is an optional extra: only its drivers import this. It knows statements as texts.

Cancellation: asyncpg has the server cancel the statement. What comes back is awaited here, under a
shield, so that whoever uses the connection next finds it in order; where that takes too long the
connection is closed.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import anyio

from pgq_trio.errors import PgqError, StoreError
from pgq_trio.postgres.sql_port import Param, Row, SqlConnection, SqlSession
from pgq_trio.store.asyncpg_errors import FAILURES, wall
from pgq_trio.store.asyncpg_listener import Payloads
from pgq_trio.store.event_loops import require_asyncio
from pgq_trio.store.postgres_errors import only_connection_closed
from pgq_trio.store.postgres_sql import listen_on

__all__ = ["AsyncpgCallersSql", "AsyncpgConnectionSql", "AsyncpgPoolSql"]

#: The value before, and off from now on; why is said where psycopg's connections are tuned.
_JIT_OFF: Final = (
    "SELECT pg_catalog.current_setting('jit'), pg_catalog.set_config('jit', 'off', false)"
)

#: How long the end of a shielded cleanup may take, in seconds.
_CLEANUP_LIMIT: Final = 5.0

_NOTHING: Final = "SELECT"

#: A channel, and what asyncpg calls for what comes on it.
_Callback: TypeAlias = tuple[str, Callable[[object, int, str, object], None]]

# What begins, ends and undoes a block.
_TRANSACTION: Final = ("BEGIN", "COMMIT", "ROLLBACK")
_SAVEPOINT: Final = (
    "SAVEPOINT pgq_trio",
    "RELEASE SAVEPOINT pgq_trio",
    "ROLLBACK TO SAVEPOINT pgq_trio; RELEASE SAVEPOINT pgq_trio",
)


class _Session(SqlSession):
    """The statements on one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        with wall(self._connection):
            return [tuple(row) for row in await self._connection.fetch(statement, *params)]

    async def execute(self, statement: str) -> None:
        """Run a statement without parameters."""
        with wall(self._connection):
            await self._connection.execute(statement)


async def _run_anyhow(connection: Any, statement: str) -> None:
    """Run a statement after a failure or a cancellation.

    A refusal is an answer as well: the session is in order, and the first error is the one that
    counts.
    """
    with suppress(PgqError):
        await _Session(connection).execute(statement)


def _close_unanswered(connection: Any, limit: anyio.CancelScope) -> None:
    """Close a connection whose cleanup did not end in time."""
    if limit.cancelled_caught:
        with suppress(*FAILURES):
            connection.terminate()


@asynccontextmanager
async def _settled(connection: Any) -> AsyncGenerator[None]:
    """A block that a cancellation leaves only when the server has answered what was sent."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        with anyio.move_on_after(_CLEANUP_LIMIT, shield=True) as limit:
            # asyncpg itself waits with it until the cancelled statement has ended.
            await _run_anyhow(connection, _NOTHING)
        _close_unanswered(connection, limit)
        raise


@asynccontextmanager
async def _block(connection: Any) -> AsyncGenerator[_Session]:
    """A transaction, or a savepoint in the one that is open."""
    with wall(connection):
        begin, end, undo = _SAVEPOINT if connection.is_in_transaction() else _TRANSACTION
    session = _Session(connection)
    try:
        await session.execute(begin)
        yield session
        await session.execute(end)
    except BaseException:
        with anyio.move_on_after(_CLEANUP_LIMIT, shield=True) as limit:
            await _run_anyhow(connection, undo)
        _close_unanswered(connection, limit)
        raise


class _AsyncpgSql(SqlConnection, ABC):
    """What all kinds have in common: how to come by a connection is theirs."""

    def __init__(self, listen_dsn: str | None) -> None:
        self._listen_dsn = listen_dsn

    @abstractmethod
    def _lent(self) -> AbstractAsyncContextManager[Any]:
        """A connection for one statement or one transaction."""

    @abstractmethod
    def _listening(self, *channels: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen where no DSN says where to."""

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        async with self._lent() as connection:
            return await _Session(connection).fetch(statement, params)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[SqlSession]:
        async with self._lent() as connection, _block(connection) as session:
            yield session

    async def run_script(self, statements: Sequence[str]) -> None:
        async with self._lent() as connection, _block(connection) as session:
            for statement in statements:
                await session.execute(statement)

    def listen(self, *channels: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        if self._listen_dsn is not None:
            return listen_on(self._listen_dsn, *channels)
        return self._listening(*channels)


class AsyncpgCallersSql(_AsyncpgSql):
    """Statements on a connection as it is: in the caller's transaction, if one is open."""

    def __init__(self, connection: Any, *, listen_dsn: str | None = None) -> None:
        super().__init__(listen_dsn)
        self._connection = connection
        #: Callbacks of listeners that are over, and that had no turn yet to be removed.
        self._left: list[_Callback] = []

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[Any]:
        require_asyncio("asyncpg")
        async with _settled(self._connection):
            yield self._connection

    @asynccontextmanager
    async def _listening(self, *channels: str) -> AsyncGenerator[AsyncIterator[str]]:
        payloads = Payloads()
        begun: list[_Callback] = []
        try:
            async with self._lent() as connection:
                with wall(connection):
                    if connection.is_in_transaction():
                        raise StoreError(
                            "a LISTEN inside of a transaction hears nothing before its commit; "
                            "listen outside of it, or with the queries of a driver of its own"
                        )
                    connection.add_termination_listener(payloads.lost)
                    for channel in channels:
                        begun.append((channel, payloads.heard))
                        await connection.add_listener(channel, payloads.heard)
            yield payloads
        finally:
            payloads.close()
            with suppress(*FAILURES):  # a pool may have the connection back
                self._connection.remove_termination_listener(payloads.lost)
            self._left.extend(begun)
            with anyio.move_on_after(_CLEANUP_LIMIT, shield=True):
                await self._stop_listening()

    async def _stop_listening(self) -> None:
        if self._left:
            with suppress(PgqError):
                async with self._lent() as connection:
                    await self._remove_left(connection)

    async def _remove_left(self, connection: Any) -> None:
        """Remove the callbacks of listeners that are over.

        Not in a transaction: its rollback would take back the UNLISTEN.
        """
        with wall(connection):
            while self._left and not connection.is_in_transaction():
                channel, heard = self._left.pop()
                # Of a LISTEN that was cancelled the server may know, and asyncpg does not.
                await connection.add_listener(channel, heard)
                # It forgets the callback first: an UNLISTEN that fails leaves nothing here.
                await connection.remove_listener(channel, heard)


class AsyncpgConnectionSql(AsyncpgCallersSql):
    """Statements on one connection, one after another; notifications come on it, too.

    Where the caller has a transaction open on it, they are part of that.
    """

    def __init__(self, connection: Any, *, listen_dsn: str | None = None) -> None:
        super().__init__(connection, listen_dsn=listen_dsn)
        self._is_tuned = False
        self._turn = anyio.Lock(fast_acquire=True)

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[Any]:
        require_asyncio("asyncpg")
        # asyncpg refuses a statement while another one is under way.
        async with self._turn, _settled(self._connection):
            with wall(self._connection):
                if self._connection.is_closed():
                    raise only_connection_closed()
                if not self._is_tuned and not self._connection.is_in_transaction():
                    await _Session(self._connection).fetch(_JIT_OFF)
                    self._is_tuned = True
            with suppress(PgqError):
                await self._remove_left(self._connection)
            yield self._connection


class AsyncpgPoolSql(_AsyncpgSql):
    """Each statement on whatever connection of the pool is free.

    The pool resets a session when it comes back, so that JIT is turned off each time it is lent,
    unless it is off by default: with `server_settings={"jit": "off"}` a statement takes one round
    trip less.
    """

    def __init__(self, pool: Any, *, listen_dsn: str | None = None) -> None:
        super().__init__(listen_dsn)
        self._pool = pool
        self._compiles = True

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[Any]:
        require_asyncio("asyncpg")
        with wall():
            connection = await self._pool.acquire()
        try:
            async with _settled(connection):
                if self._compiles:
                    [(before, _)] = await _Session(connection).fetch(_JIT_OFF)
                    self._compiles = before != "off"
                yield connection
        finally:
            with anyio.move_on_after(_CLEANUP_LIMIT, shield=True) as limit:
                # What was asked for has been answered; what cannot be reset the pool replaces.
                with suppress(*FAILURES):
                    await self._pool.release(connection)
            _close_unanswered(connection, limit)

    @asynccontextmanager
    async def _listening(self, *channels: str) -> AsyncGenerator[AsyncIterator[str]]:
        """Listen on a further connection: one of the pool would be missing there for good."""
        require_asyncio("asyncpg")
        with wall():
            connection = await self._pool._get_new_connection()  # noqa: SLF001 - as the pool does
        try:
            _keep_alive(connection)
            async with AsyncpgCallersSql(connection).listen(*channels) as payloads:
                yield payloads
        finally:
            with anyio.move_on_after(_CLEANUP_LIMIT, shield=True):
                with suppress(*FAILURES):
                    await connection.close()
            connection.terminate()


def _keep_alive(connection: Any) -> None:
    """Have TCP find out that the server is gone: who only receives never would.

    The same figures as for this package's own listener.
    """
    transport = getattr(connection, "_transport", None)
    found = None if transport is None else transport.get_extra_info("socket")
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
