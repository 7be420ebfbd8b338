"""The SQL port without an event loop, on psycopg's blocking connections.

Its operations are coroutines, as the port asks, but none of them ever suspends: what stores do on
it is over once it is begun. So the stores are the same as everywhere else, and who calls them runs
their coroutines to the end in one step.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus

from pgq_trio.errors import BackendNotSupported
from pgq_trio.postgres.sql_port import Param, Row, SqlConnection, SqlSession
from pgq_trio.store.postgres_encoding import encode
from pgq_trio.store.postgres_errors import translate
from pgq_trio.store.psycopg_rows import Rows

__all__ = ["Lend", "SyncSql"]

#: Gives a connection for one statement or one transaction, and knows who commits.
Lend: TypeAlias = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]

#: Has psycopg begin the transaction in which the caller's statements are to be.
_NOTHING: Final = b"SELECT"


class _Session(SqlSession):
    """Statements on one connection; whether they are prepared is the connection's affair."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        return Rows(self._connection).run(statement, encode(params))


class SyncSql(SqlConnection):
    """Statements on blocking connections, each lent for as long as it is needed."""

    def __init__(self, lend: Lend) -> None:
        self._lend = lend

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        try:
            with self._lend() as connection:
                return await _Session(connection).fetch(statement, params)
        except psycopg.Error as exc:
            raise translate(exc) from exc

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[SqlSession]:
        try:
            with self._lend() as connection, _block(connection):
                yield _Session(connection)
        except psycopg.Error as exc:
            raise translate(exc) from exc

    async def run_script(self, statements: Sequence[str]) -> None:
        try:
            with self._lend() as connection, _block(connection):
                for statement in statements:
                    Rows(connection).run(statement, prepare=False)
        except psycopg.Error as exc:
            raise translate(exc) from exc

    def listen(self, *channels: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        raise BackendNotSupported(
            f"listening to {', '.join(channels)} needs an event loop; use `Queries` on a driver "
            "of an event loop for it"
        )


@contextmanager
def _block(connection: psycopg.Connection[Any]) -> Generator[None]:
    """A transaction in autocommit, otherwise a savepoint in the caller's transaction."""
    if not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        # psycopg would begin a transaction of the block's own, and commit it at the end.
        connection.execute(_NOTHING, prepare=False)
    with connection.transaction():
        yield
