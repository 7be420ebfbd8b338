"""Cursors whose rows the stores understand, whatever else is set on the connection.

A framework may have put adapters of its own on its connections: Django's make naive datetimes of
`timestamptz`, many parse JSON. The stores ask for plain values, so these cursors use psycopg's own
adapters. A program may also talk to its server in another encoding than UTF-8: statements go in
that one, and where none is set (SQL_ASCII), text is UTF-8. Used with an event loop and without.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncRawCursor, RawCursor, errors as pg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format
from psycopg.rows import TupleRow, tuple_row

__all__ = ["AsyncRows", "Rows"]

_PLAIN: Final = AdaptersMap(psycopg.adapters)


class _Utf8(Loader):
    def load(self, data: Buffer) -> str:
        return bytes(data).decode("utf-8", "backslashreplace")


class _Utf8Binary(_Utf8):
    format = Format.BINARY


#: As `_PLAIN`, for SQL_ASCII, where psycopg gives bytes for text.
_PLAIN_ASCII: Final = AdaptersMap(_PLAIN)
for _loader in (_Utf8, _Utf8Binary):
    for _type in (0, "bpchar", "name", "text", "varchar"):
        _PLAIN_ASCII.register_loader(_type, _loader)


class AsyncRows(AsyncRawCursor[TupleRow]):
    """A cursor with `$1` parameters and plain tuples for an `AsyncConnection`."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """psycopg's own, instead of the connection's."""
        return _adapters(self.connection)

    async def run(
        self,
        statement: str,
        params: Sequence[object] | None = None,
        *,
        prepare: bool | None = None,
    ) -> list[TupleRow]:
        """Run a statement, or without parameters a script; return its rows, if it has any."""
        with _encoding(self.connection):
            query = _encoded(statement, self.connection)
            await self.execute(query, params, prepare=prepare, binary=params is not None)
        return await self.fetchall() if self.description else []


class Rows(RawCursor[TupleRow]):
    """A cursor with `$1` parameters and plain tuples for a `Connection`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """psycopg's own, instead of the connection's."""
        return _adapters(self.connection)

    def run(
        self,
        statement: str,
        params: Sequence[object] | None = None,
        *,
        prepare: bool | None = None,
    ) -> list[TupleRow]:
        """Run a statement, or without parameters a script; return its rows, if it has any."""
        with _encoding(self.connection):
            query = _encoded(statement, self.connection)
            self.execute(query, params, prepare=prepare, binary=params is not None)
        return self.fetchall() if self.description else []


_Connection: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def _adapters(connection: _Connection) -> AdaptersMap:
    # "ascii" is what psycopg calls SQL_ASCII.
    return _PLAIN_ASCII if connection.info.encoding == "ascii" else _PLAIN


def _encoded(statement: str, connection: _Connection) -> bytes:
    encoding = connection.info.encoding
    return statement.encode("utf-8" if encoding == "ascii" else encoding)


@contextmanager
def _encoding(connection: _Connection) -> Generator[None]:
    """A block in which a character that the connection's encoding lacks is an error of psycopg's.

    The encoding is the program's: nothing of its session is changed.
    """
    try:
        yield
    except UnicodeEncodeError as exc:
        lacking = f"{exc.object[exc.start]!r} cannot be sent"
        raise psycopg.DataError(f"{lacking}{_advice(connection)}") from exc
    except pg.UntranslatableCharacter as exc:
        if connection.info.encoding == "utf-8":
            raise  # it is the database's encoding that lacks it
        raise psycopg.DataError(f"{exc.diag.message_primary}{_advice(connection)}") from exc


def _advice(connection: _Connection) -> str:
    name = connection.info.parameter_status("client_encoding")
    return (
        f": the connection's client_encoding is {name}; connect with client_encoding=UTF8, or "
        "run \"SET client_encoding TO 'UTF8'\" on it first"
    )
