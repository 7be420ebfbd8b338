"""The wall for asyncpg: its errors go in, errors of this package come out; knows no statement.

asyncpg is an optional extra: only its drivers import this.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import psycopg
from psycopg import errors as pg

from pgq_trio.errors import ConnectionLost, PgqError, StoreError
from pgq_trio.store.postgres_errors import in_words, judge

__all__ = ["FAILURES", "translate_asyncpg", "wall"]

#: Everything asyncpg raises. Of a connection that breaks or cannot be made it passes on OSError.
FAILURES: Final[tuple[type[Exception], ...]] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


def translate_asyncpg(error: Exception, connection: Any = None) -> PgqError:
    """Return this package's error for one of asyncpg's; raise it `from` the given one.

    Args:
        error: one of `FAILURES`.
        connection: what it happened on, if a connection was to be had.
    """
    text = str(error) or type(error).__name__
    if isinstance(error, asyncpg.PostgresError):
        # asyncpg sets those fields that the server has sent.
        said: Any = error
        primary = getattr(said, "message", None) or text
        return judge(
            _same_kind(said.sqlstate),
            in_words(primary, getattr(said, "detail", None), getattr(said, "hint", None)),
            constraint=getattr(said, "constraint_name", None),
            primary=primary,
        )
    if isinstance(error, TimeoutError) and error.errno is None:
        # The caller's `command_timeout`, or no free connection in the caller's time.
        return StoreError(f"asyncpg: {text}", retryable=True)
    if isinstance(error, OSError) or _is_closed(connection):
        return ConnectionLost(text)
    return StoreError(f"asyncpg: {text}")


def _is_closed(connection: Any) -> bool:
    try:
        return connection is not None and connection.is_closed()
    except asyncpg.InterfaceError:
        # The pool that lent it has it back, and it answers nothing any more.
        return False


def _same_kind(sqlstate: str | None) -> psycopg.Error:
    """Return psycopg's error with this SQLSTATE: what a code means is decided in one place."""
    try:
        return pg.lookup(sqlstate or "")()
    except KeyError:
        # A code of the caller's own functions.
        return psycopg.DatabaseError()


@contextmanager
def wall(connection: Any = None) -> Generator[None]:
    """A block in which asyncpg's errors become this package's."""
    try:
        yield
    except FAILURES as exc:
        raise translate_asyncpg(exc, connection) from exc
