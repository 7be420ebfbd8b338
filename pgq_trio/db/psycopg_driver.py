"""The driver on this package's own connections and pools."""

from __future__ import annotations

from typing import Any

import psycopg
import psycopg_pool

from pgq_trio.db.sql_drivers import SqlDriver, type_name
from pgq_trio.errors import BackendNotSupported
from pgq_trio.postgres import Connection, ConnectionPool
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.store.postgres_sql import ConnectionSql, PoolSql

__all__ = ["PsycopgDriver"]


class PsycopgDriver(SqlDriver):
    """A queue on one of this package's connections or pools (`pgq_trio.postgres`).

    A pool is what a worker wants: its claims and outcomes do not wait for each other then. On a
    single connection statements run one after another; if it is not in autocommit, they are part
    of the caller's transaction, rolled back with it, visible and notified with its commit.
    Notifications always come on a connection of their own, made like the given one.

    Args:
        target: what `pgq_trio.postgres.connect` or `open_pool` gave; its life is the caller's.

    Raises:
        TypeError: it is something else.
        BackendNotSupported: it is psycopg's own connection or pool, which needs asyncio.
    """

    def __init__(self, target: Connection[Any] | ConnectionPool[Any]) -> None:
        super().__init__()
        self._target = _checked(target)

    def _make_port(self, listen_dsn: str | None) -> SqlConnection:
        if isinstance(self._target, Connection):
            return ConnectionSql(self._target, listen_dsn=listen_dsn)
        return PoolSql(self._target, listen_dsn=listen_dsn)


def _checked(target: object) -> Connection[Any] | ConnectionPool[Any]:
    if isinstance(target, Connection | ConnectionPool):
        return target  # pyright: ignore[reportUnknownVariableType]
    name = type_name(target)
    if isinstance(target, psycopg.AsyncConnection):
        raise BackendNotSupported(
            f"{name} runs on asyncio only; open the connection with "
            "`await pgq_trio.postgres.connect(conninfo)`, which runs on Trio and on asyncio. "
            "To enqueue in its transaction: `queries.using(connection)`"
        )
    if isinstance(target, psycopg_pool.AsyncConnectionPool):
        raise BackendNotSupported(
            f"{name} runs on asyncio only; open the pool with "
            "`pgq_trio.postgres.open_pool(conninfo)`, which runs on Trio and on asyncio"
        )
    raise TypeError(
        "PsycopgDriver takes a connection of pgq_trio.postgres.connect() or a pool of "
        f"open_pool(), got {name}"
    )
