"""The ports of drivers: what leads to a database, and everything it offers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pgq_trio.abc.insights import InsightStore
from pgq_trio.abc.jobs import JobStore
from pgq_trio.abc.notifier import Notifier
from pgq_trio.abc.schedules import ScheduleStore
from pgq_trio.abc.schema import SchemaStore
from pgq_trio.errors import BackendNotSupported
from pgq_trio.settings import Settings

__all__ = ["Backend", "Driver", "SyncDriver"]


class Backend(Protocol):
    """Everything one driver offers for one set of settings; needs no task and no opening."""

    @property
    def settings(self) -> Settings:
        """The names all parts of this backend use."""
        ...

    @property
    def jobs(self) -> JobStore:
        """The queue table and its log."""
        ...

    @property
    def schedules(self) -> ScheduleStore:
        """The schedules table."""
        ...

    @property
    def insights(self) -> InsightStore:
        """What can be learned about the queue."""
        ...

    @property
    def schema(self) -> SchemaStore:
        """The objects in the database."""
        ...

    @property
    def notifier(self) -> Notifier:
        """The channel of notifications."""
        ...


@runtime_checkable
class Driver(Protocol):
    """A way to a database; `pgq_trio.db` has the ready ones."""

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        ...

    def using(self, connection: object) -> Driver:
        """Return a driver whose statements are part of the caller's transaction.

        Args:
            connection: of `pgq_trio.postgres`, psycopg's `AsyncConnection`, or asyncpg's.

        Raises:
            BackendNotSupported: this driver has no transactions, or the connection cannot run on
                this event loop.
            TypeError: it is no such connection.
        """
        raise BackendNotSupported(
            f"{type(self).__name__} keeps its jobs outside of every database, so that a "
            f"{type(connection).__name__} has no part in them; `using` needs a driver on PostgreSQL"
        )


@runtime_checkable
class SyncDriver(Protocol):
    """A way to a database for programs without an event loop."""

    def sync_backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; none of their operations ever suspends."""
        ...
