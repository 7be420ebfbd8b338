"""What all parts of `Queries` stand on: a driver and its stores."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self, TypeAlias

from pgq_trio.abc import Backend, Driver, SyncDriver
from pgq_trio.settings import Settings

__all__ = ["Names", "QueriesBase", "names_of"]

#: One name, several, or None for all.
Names: TypeAlias = str | Collection[str] | None


class QueriesBase:
    """The stores of one driver under one set of names.

    Args:
        driver: one of `pgq_trio.db`.
        settings: names of the database objects; None: from the environment.

    Raises:
        TypeError: the driver is one for programs without an event loop.
    """

    def __init__(self, driver: Driver, *, settings: Settings | None = None) -> None:
        if isinstance(driver, SyncDriver):
            raise TypeError(
                f"{type(driver).__name__} works without an event loop: SyncQueries(driver) is what "
                "uses it; Queries needs another driver of pgq_trio.db"
            )
        self.driver = driver
        self.backend: Backend = driver.backend(settings or Settings())

    @property
    def settings(self) -> Settings:
        """The names of the database objects in use."""
        return self.backend.settings

    def using(self, connection: object) -> Self:
        """Return the same queries as part of the caller's own transaction.

            async with connection.transaction():
                await connection.execute("INSERT INTO orders ...")
                await pgq.queries.using(connection).enqueue("ship", payload)

        What is enqueued is visible, and wakes workers, when the caller's transaction commits, and
        is gone when it rolls back. Nothing here begins or ends that transaction or changes the
        session; what takes several statements runs in a savepoint. On a connection that has no
        transaction open and is in autocommit, it is written at once.

        A failed call aborts the caller's transaction, as any failed statement does: also
        `DuplicateJobError`, which `on_conflict="skip"` avoids.

        Args:
            connection: of `pgq_trio.postgres`, psycopg's `AsyncConnection`, or asyncpg's (one
                that a pool lends as well); the latter two on asyncio only. It need not be of the
                kind of this driver.

        Raises:
            TypeError: it is something else. For blocking connections there is `SyncQueries`.
            BackendNotSupported: this queue is in memory, or the connection cannot run on this
                event loop.

        Cancellation: the connection stays usable, or is closed where the server does not answer;
        its transaction may be aborted.
        """
        return type(self)(self.driver.using(connection), settings=self.settings)


def names_of(value: Names) -> Collection[str] | None:
    """Return names as a collection; None stays None."""
    return [value] if isinstance(value, str) else value
