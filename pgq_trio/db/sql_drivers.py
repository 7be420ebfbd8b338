"""What all drivers on PostgreSQL have in common: stores on a port, and `using`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from pgq_trio.abc import Backend, Driver
from pgq_trio.db.callers import callers_port
from pgq_trio.postgres.sql_port import SqlConnection
from pgq_trio.schema import PostgresSchema
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.postgres_insights import PostgresInsights
from pgq_trio.store.postgres_jobs import PostgresJobs
from pgq_trio.store.postgres_notifier import PostgresNotifier
from pgq_trio.store.postgres_schedules import PostgresSchedules

__all__ = ["MakePort", "SqlBackends", "SqlDriver", "type_name"]

#: Makes the port; its argument is the DSN on which to listen, None for where the statements go.
MakePort: TypeAlias = Callable[[str | None], SqlConnection]


class SqlBackends:
    """The stores on one way to PostgreSQL, one set of them for all equal settings."""

    def __init__(self, make_port: MakePort) -> None:
        self._make_port = make_port
        self._backends: dict[Settings, Backend] = {}
        # One for all settings: it may hold the lock that keeps transactions apart.
        self._ports: dict[str | None, SqlConnection] = {}

    def backend(self, settings: Settings) -> Backend:
        """Return the stores; calls with equal settings share them."""
        backend = self._backends.get(settings)
        if backend is None:
            backend = self._backends[settings] = _backend(self._port(settings.listen_dsn), settings)
        return backend

    def _port(self, listen_dsn: str | None) -> SqlConnection:
        if listen_dsn not in self._ports:
            self._ports[listen_dsn] = self._make_port(listen_dsn)
        return self._ports[listen_dsn]


class SqlDriver(Driver, ABC):
    """A driver on PostgreSQL; how to send a statement is the kind's own."""

    def __init__(self) -> None:
        self._backends = SqlBackends(self._make_port)

    @abstractmethod
    def _make_port(self, listen_dsn: str | None) -> SqlConnection:
        """The way to send statements."""

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        return self._backends.backend(settings)

    def using(self, connection: object) -> Driver:
        """Return a driver whose statements are part of the caller's transaction.

        What `connection` is decides, not this driver: any kind goes with any driver. Nothing of
        the session is changed: no BEGIN, no COMMIT, no setting.

        Args:
            connection: of `pgq_trio.postgres`, psycopg's `AsyncConnection`, or asyncpg's (one
                that a pool lends as well); the latter two on asyncio only.

        Raises:
            TypeError: it is something else.
            BackendNotSupported: it cannot run on this event loop.
        """
        return _CallersDriver(callers_port(connection))


class _CallersDriver(SqlDriver):
    """What `using` returns."""

    def __init__(self, make_port: MakePort) -> None:
        self._make = make_port
        super().__init__()

    def _make_port(self, listen_dsn: str | None) -> SqlConnection:
        return self._make(listen_dsn)


def _backend(sql: SqlConnection, settings: Settings) -> Backend:
    return StoreBackend(
        settings=settings,
        jobs=PostgresJobs(sql, settings),
        schedules=PostgresSchedules(sql, settings),
        insights=PostgresInsights(sql, settings),
        schema=PostgresSchema(sql, settings),
        notifier=PostgresNotifier(sql, settings),
    )


def type_name(value: object) -> str:
    """Return what a value is, for messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
