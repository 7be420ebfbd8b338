"""The drivers on asyncpg, for programs on asyncio that have asyncpg connections already."""

from __future__ import annotations

from typing import Any

from pgq_trio.db.sql_drivers import SqlDriver, type_name
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.store.event_loops import require_asyncio

__all__ = ["AsyncpgDriver", "AsyncpgPoolDriver"]


def _import_asyncpg(name: str) -> Any:
    """Import the extra; nobody else pays for it."""
    require_asyncio("asyncpg")
    try:
        import asyncpg
    except ImportError as exc:
        raise ImportError(
            f"{name} needs asyncpg, which is an extra: pip install 'pgq-trio[asyncpg]'"
        ) from exc
    return asyncpg


class AsyncpgDriver(SqlDriver):
    """A queue on one asyncpg connection; asyncio only.

    Statements run one after another, and notifications come on the same connection. Inside of a
    transaction that the caller has opened on it they are part of that. A worker is faster on
    `AsyncpgPoolDriver`.

    Args:
        connection: what `asyncpg.connect` gave, or what an asyncpg pool lends; its life is the
            caller's.

    Raises:
        BackendNotSupported: Trio is running; at the first use, if no event loop runs yet.
        ImportError: asyncpg is not installed.
        TypeError: it is something else.
    """

    def __init__(self, connection: object) -> None:
        super().__init__()
        asyncpg = _import_asyncpg("AsyncpgDriver")
        if not isinstance(connection, asyncpg.Connection):
            hint = "; a pool goes to AsyncpgPoolDriver" if _is_pool(connection, asyncpg) else ""
            raise TypeError(
                f"AsyncpgDriver takes a connection of asyncpg, got {type_name(connection)}{hint}"
            )
        self._connection = connection

    def _make_port(self, listen_dsn: str | None) -> SqlConnection:
        from pgq_trio.store.asyncpg_sql import AsyncpgConnectionSql

        return AsyncpgConnectionSql(self._connection, listen_dsn=listen_dsn)


class AsyncpgPoolDriver(SqlDriver):
    """A queue on an asyncpg pool; asyncio only.

    Notifications come on a further connection, made with the pool's arguments and its `init`, so
    that also a pool of one can serve a worker.

    Args:
        pool: what `asyncpg.create_pool` gave; its life is the caller's.

    Raises:
        BackendNotSupported: Trio is running; at the first use, if no event loop runs yet.
        ImportError: asyncpg is not installed.
        TypeError: it is something else.
    """

    def __init__(self, pool: object) -> None:
        super().__init__()
        asyncpg = _import_asyncpg("AsyncpgPoolDriver")
        if not _is_pool(pool, asyncpg):
            hint = (
                "; a connection goes to AsyncpgDriver"
                if isinstance(pool, asyncpg.Connection)
                else ""
            )
            raise TypeError(
                "AsyncpgPoolDriver takes a pool of asyncpg.create_pool(), "
                f"got {type_name(pool)}{hint}"
            )
        self._pool = pool

    def _make_port(self, listen_dsn: str | None) -> SqlConnection:
        from pgq_trio.store.asyncpg_sql import AsyncpgPoolSql

        return AsyncpgPoolSql(self._pool, listen_dsn=listen_dsn)


def _is_pool(value: object, asyncpg: Any) -> bool:
    return isinstance(value, asyncpg.Pool)
