"""The SQL port on psycopg's async connections; knows statements as texts, not their meaning.

On connections of ours every statement is prepared and runs in autocommit: one round trip. Results
come in binary, which psycopg's C loaders read faster than text for the types of the queue's
columns. On a connection that a caller lends, nothing about its session is changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Final
from weakref import WeakSet

import anyio
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from pgq_trio.errors import ListenerLost
from pgq_trio.postgres import Connection, ConnectionPool, Listener, listen
from pgq_trio.postgres.sql_port import Param, Row, SqlConnection, SqlSession
from pgq_trio.store.postgres_encoding import encode
from pgq_trio.store.postgres_errors import only_connection_closed, translate
from pgq_trio.store.psycopg_rows import AsyncRows

__all__ = ["CallersSql", "ConnectionSql", "PoolSql", "listen_on"]

_JIT_OFF: Final = b"SELECT pg_catalog.set_config('jit', 'off', false)"

#: Has psycopg begin the transaction in which the caller's statements are to be.
_NOTHING: Final = b"SELECT"

#: How long the end of a shielded cleanup may take, in seconds.
_CLEANUP_LIMIT: Final = 5.0


async def _tune(connection: psycopg.AsyncConnection[Any]) -> None:
    """Keep the session from compiling statements (JIT).

    What decides on it is an estimated cost; a claim that is overestimated, as happens while the
    statistics lag behind, would be compiled for 0.8 s and run for 2 ms.
    """
    await connection.execute(_JIT_OFF, prepare=False)


@asynccontextmanager
async def _block(connection: psycopg.AsyncConnection[Any]) -> AsyncGenerator[None]:
    """A transaction in autocommit, otherwise a savepoint in the caller's transaction."""
    if not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        # psycopg would begin a transaction of the block's own, and commit it at the end.
        await connection.execute(_NOTHING, prepare=False)
    async with connection.transaction():
        yield


class _Session(SqlSession):
    """The statements of a transaction block."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], *, prepare: bool | None) -> None:
        self._connection = connection
        self._prepare = prepare

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        cursor = AsyncRows(self._connection)
        return await cursor.run(statement, encode(params), prepare=self._prepare)


class _PsycopgSql(SqlConnection, ABC):
    """What all kinds have in common: how to come by a connection is theirs."""

    #: Whether statements are prepared; None leaves it to the connection.
    _prepare: ClassVar[bool | None] = True

    def __init__(self, listen_dsn: str | None) -> None:
        self._listen_dsn = listen_dsn

    @abstractmethod
    def _lent(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        """A connection for one statement or one transaction."""

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        try:
            async with self._lent() as connection:
                return await _Session(connection, prepare=self._prepare).fetch(statement, params)
        except psycopg.Error as exc:
            raise translate(exc) from exc

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[SqlSession]:
        try:
            async with self._lent() as connection, _block(connection):
                yield _Session(connection, prepare=self._prepare)
        except psycopg.Error as exc:
            raise translate(exc) from exc

    async def run_script(self, statements: Sequence[str]) -> None:
        try:
            async with self._lent() as connection, _block(connection):
                for statement in statements:
                    await AsyncRows(connection).run(statement, prepare=False)
        except psycopg.Error as exc:
            raise translate(exc) from exc

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncGenerator[AsyncIterator[str]]:
        if self._listen_dsn is None:
            try:
                async with self._lent() as connection:
                    # Kept: after an outage there may be no connection to ask.
                    self._listen_dsn = _conninfo(connection)
            except psycopg.Error as exc:
                raise translate(exc) from exc
        async with listen_on(self._listen_dsn, *channels) as payloads:
            yield payloads


@asynccontextmanager
async def listen_on(dsn: str, *channels: str) -> AsyncGenerator[AsyncIterator[str]]:
    """Listen on a new connection of this package; see `SqlConnection.listen`."""
    async with AsyncExitStack() as stack:
        try:
            listener = await stack.enter_async_context(listen(dsn, *channels))
        except psycopg.Error as exc:
            raise translate(exc) from exc
        yield _Payloads(listener)


def _conninfo(connection: psycopg.AsyncConnection[Any]) -> str:
    """Return how to open another connection of the same kind; `dsn` leaves the password out."""
    info = connection.info
    return make_conninfo(info.dsn, **({"password": info.password} if info.password else {}))


class _Payloads(AsyncIterator[str]):
    """What a listener receives. Not a generator: nobody would close it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def __anext__(self) -> str:
        try:
            return (await self._listener.__anext__()).payload
        except psycopg.Error as exc:
            raise ListenerLost(str(exc)) from exc


class CallersSql(_PsycopgSql):
    """Statements in the caller's transaction, on this package's connection or psycopg's own."""

    _prepare = None

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], *, listen_dsn: str | None = None
    ) -> None:
        super().__init__(listen_dsn)
        self._connection = connection

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        connection = self._connection
        try:
            yield connection
        except BaseException:
            # psycopg gives up a cancelled statement when it is cancelled again, as AnyIO does.
            if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
                connection.pgconn.finish()
            raise


class ConnectionSql(_PsycopgSql):
    """Statements on one connection, one after another.

    On a connection that is not in autocommit they are part of the caller's transaction.
    """

    def __init__(self, connection: Connection[Any], *, listen_dsn: str | None = None) -> None:
        super().__init__(listen_dsn)
        self._connection = connection
        self._is_tuned = False
        self._turn = anyio.Lock(fast_acquire=True)

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        # psycopg has a lock around each statement; a transaction block needs one around itself.
        async with self._turn:
            if self._connection.closed:
                raise only_connection_closed()
            if not self._is_tuned and self._connection.autocommit:
                await _tune(self._connection)
                self._is_tuned = True
            yield self._connection


class PoolSql(_PsycopgSql):
    """Each statement on whatever connection of the pool is free."""

    def __init__(self, pool: ConnectionPool[Any], *, listen_dsn: str | None = None) -> None:
        super().__init__(listen_dsn)
        self._pool = pool
        self._tuned: WeakSet[Connection[Any]] = WeakSet()

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        async with self._pool.connection() as connection:
            if connection.autocommit:
                if connection not in self._tuned:
                    await _tune(connection)
                    self._tuned.add(connection)
                yield connection
                return
            # BEGIN and COMMIT would make three round trips of one. No traffic: it is a flag.
            await connection.set_autocommit(True)
            try:
                yield connection
            finally:
                with anyio.move_on_after(_CLEANUP_LIMIT, shield=True):
                    if not connection.closed:
                        await connection.set_autocommit(False)
