"""How a connection of the caller becomes the port on which `using` works; knows no store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import psycopg

from pgq_trio.postgres import Connection
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.store.event_loops import require_asyncio
from pgq_trio.store.postgres_sql import CallersSql

__all__ = ["callers_port"]

#: Modules whose connections block: SyncQueries is for those.
_BLOCKING = ("sqlalchemy", "django", "psycopg2", "sqlite3")


def callers_port(connection: object) -> Callable[[str | None], SqlConnection]:
    """Return what makes the port; its argument is the DSN on which to listen.

    Raises:
        TypeError: this is no connection that can be used.
        BackendNotSupported: it cannot run on this event loop.
    """
    if isinstance(connection, psycopg.AsyncConnection):
        found: psycopg.AsyncConnection[Any] = connection  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(found, Connection):
            require_asyncio("psycopg's AsyncConnection")
        return lambda dsn: CallersSql(found, listen_dsn=dsn)
    # Where asyncpg has not been imported, nothing can be a connection of it.
    asyncpg: Any = sys.modules.get("asyncpg")
    if asyncpg is not None and isinstance(connection, asyncpg.Connection):
        require_asyncio("asyncpg")
        from pgq_trio.store.asyncpg_sql import AsyncpgCallersSql

        return lambda dsn: AsyncpgCallersSql(connection, listen_dsn=dsn)
    raise TypeError(_complaint(connection))


def _complaint(connection: object) -> str:
    kind = type(connection)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.startswith("sqlalchemy.ext.asyncio"):
        # Statements that it has not sent itself do not begin its transaction.
        return f"`using` does not support SQLAlchemy's async connections, got {name}"
    if isinstance(connection, psycopg.Connection) or kind.__module__.startswith(_BLOCKING):
        return (
            f"{name} blocks, and `using` needs a connection of an event loop; without one use "
            "`SyncQueries(SyncPsycopgDriver(connection))`"
        )
    hint = "; of a pool, give a connection that it lends" if "Pool" in kind.__name__ else ""
    return (
        "`using` takes a connection: of pgq_trio.postgres, psycopg's AsyncConnection, or asyncpg's,"
        f" got {name}{hint}"
    )
