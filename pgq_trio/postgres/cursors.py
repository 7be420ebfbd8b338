"""Cursors that leave a usable connection when interrupted; know COPY and portals, not tasks."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
from psycopg import AsyncCursor, AsyncServerCursor
from psycopg.copy import AsyncCopy, AsyncLibpqWriter, AsyncWriter
from psycopg.rows import Row

from pgq_trio.postgres.recovery import CLEANUP_LIMIT, is_active

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg.abc import Params, Query

    from pgq_trio.postgres.interruptible import InterruptibleConnection

__all__ = ["Copy", "Cursor", "ServerCursor"]


class Copy(AsyncCopy):
    """psycopg's COPY block; see `Cursor.copy`."""

    async def finish(self, exc: BaseException | None) -> None:
        """End the COPY: confirmed if `exc` is None, else the server discards it."""
        try:
            if exc is None:
                await super().finish(None)
            elif is_active(self._pgconn):
                with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
                    await super().finish(exc)
            elif not isinstance(self.writer, AsyncLibpqWriter):
                with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
                    await self.writer.finish(exc)
        finally:
            # Also where a block leaves a COPY TO unread, which psycopg leaves running.
            await cast("InterruptibleConnection[Any]", self.connection).recover()


class Cursor(AsyncCursor[Row]):
    """psycopg's cursor; what is cancelled leaves the connection usable.

    `stream()` and `notifies()` are async generators: iterate over them inside
    `contextlib.aclosing`, so that leaving the loop early ends them at once, in your own task.
    """

    __slots__ = ()

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, *, writer: AsyncWriter | None = None
    ) -> AsyncGenerator[AsyncCopy]:
        """A block in which a COPY statement runs; the object it gives writes or reads rows.

        Leaving it normally ends a COPY FROM and cancels what was not read of a COPY TO. On an
        exception the server discards the rows.

        Cancellation: the server discards the rows; the connection is usable afterwards.
        """
        async with self._conn.lock:
            await self._conn.wait(self._start_copy_gen(statement, params))
            async with Copy(self, writer=writer) as copy:
                yield copy
        self._select_current_result(0)  # its rowcount


class ServerCursor(AsyncServerCursor[Row]):
    """psycopg's server-side cursor; closing it is cleanup, and so shielded for up to 5 s."""

    __slots__ = ()

    async def close(self) -> None:
        """Close the cursor on the server, unless its transaction has failed."""
        if self.closed:
            return
        connection = cast("InterruptibleConnection[Any]", self._conn)
        try:
            if not connection.closed:
                async with connection.held_for_cleanup():
                    await connection.conclude(self._close_gen())
        finally:
            self._close()
