"""The ready drivers: how a connection, a pool or plain memory becomes the stores of a queue."""

from __future__ import annotations

from typing import Any

import psycopg
import psycopg_pool

from pgq_trio.abc import Backend, Driver
from pgq_trio.errors import BackendNotSupported
from pgq_trio.postgres import Connection, ConnectionPool
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.schema import PostgresSchema
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.memory import memory_backend
from pgq_trio.store.memory_clock import Clock, LoopClock, Ticker
from pgq_trio.store.postgres_insights import PostgresInsights
from pgq_trio.store.postgres_jobs import PostgresJobs
from pgq_trio.store.postgres_notifier import PostgresNotifier
from pgq_trio.store.postgres_schedules import PostgresSchedules
from pgq_trio.store.postgres_sql import ConnectionSql, PoolSql

__all__ = ["InMemoryDriver", "PsycopgDriver"]


class PsycopgDriver(Driver):
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
        self._target = _checked(target)
        self._backends: dict[Settings, Backend] = {}
        # One for all settings: it holds the lock that keeps transactions on a connection apart.
        self._sql: dict[str | None, ConnectionSql | PoolSql] = {}

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        backend = self._backends.get(settings)
        if backend is None:
            backend = self._backends[settings] = _sql_backend(self._port(settings), settings)
        return backend

    def _port(self, settings: Settings) -> SqlConnection:
        dsn = settings.listen_dsn
        if dsn not in self._sql:
            target = self._target
            self._sql[dsn] = (
                ConnectionSql(target, listen_dsn=dsn)
                if isinstance(target, Connection)
                else PoolSql(target, listen_dsn=dsn)
            )
        return self._sql[dsn]


def _sql_backend(sql: SqlConnection, settings: Settings) -> Backend:
    return StoreBackend(
        settings=settings,
        jobs=PostgresJobs(sql, settings),
        schedules=PostgresSchedules(sql, settings),
        insights=PostgresInsights(sql, settings),
        schema=PostgresSchema(sql, settings),
        notifier=PostgresNotifier(sql, settings),
    )


def _checked(target: object) -> Connection[Any] | ConnectionPool[Any]:
    if isinstance(target, Connection | ConnectionPool):
        return target  # pyright: ignore[reportUnknownVariableType]
    name = f"{type(target).__module__}.{type(target).__qualname__}"
    if isinstance(target, psycopg.AsyncConnection):
        raise BackendNotSupported(
            f"{name} runs on asyncio only; open the connection with "
            "`await pgq_trio.postgres.connect(conninfo)`, which runs on Trio and on asyncio"
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


class InMemoryDriver(Driver):
    """A queue in memory, for tests and trials; gone with the driver.

    All queries and workers on one driver share its queue, also across runs of an event loop.

    Args:
        clock: returns the store's now as an aware datetime. The default is wall time that follows
            the event loop's clock, so that Trio's MockClock drives deferred jobs and schedules.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._ticker = Ticker(clock or LoopClock())
        self._backends: dict[Settings, Backend] = {}

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        backend = self._backends.get(settings)
        if backend is None:
            backend = self._backends[settings] = memory_backend(settings, self._ticker)
        return backend
