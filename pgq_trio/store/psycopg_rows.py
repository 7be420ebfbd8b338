"""Cursors whose rows the stores understand, whatever else is registered on the connection.

A framework may have put adapters of its own on its connections: Django's make naive datetimes of
`timestamptz`, many parse JSON. The stores ask for plain values, so these cursors use psycopg's own
adapters. Used with an event loop and without.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import AsyncRawCursor, RawCursor
from psycopg.adapt import AdaptersMap
from psycopg.rows import TupleRow, tuple_row

__all__ = ["AsyncRows", "Rows"]

_PLAIN: Final = AdaptersMap(psycopg.adapters)


class AsyncRows(AsyncRawCursor[TupleRow]):
    """A cursor with `$1` parameters and plain tuples for an `AsyncConnection`."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """psycopg's own, instead of the connection's."""
        return _PLAIN


class Rows(RawCursor[TupleRow]):
    """A cursor with `$1` parameters and plain tuples for a `Connection`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """psycopg's own, instead of the connection's."""
        return _PLAIN
