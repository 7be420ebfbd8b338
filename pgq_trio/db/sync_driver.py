"""The driver for programs without an event loop, on psycopg's blocking connections."""

from __future__ import annotations

from pgq_trio.abc import Backend
from pgq_trio.abc.drivers import SyncDriver
from pgq_trio.db.sql_drivers import SqlBackends
from pgq_trio.db.sync_targets import lend_from
from pgq_trio.settings import Settings
from pgq_trio.store.sync_sql import SyncSql

__all__ = ["SyncPsycopgDriver"]


class SyncPsycopgDriver(SyncDriver):
    """A queue for `SyncQueries`, on blocking connections of psycopg 3.

    Args:
        target: one of these, whose life stays the caller's.

            - psycopg's `Connection`, SQLAlchemy's `Connection` or `Session` (`scoped_session`
              too), Django's `django.db.connection` or `connections[...]`: each call is part of
              the caller's transaction and never commits it; in autocommit it is written at once.
            - `psycopg_pool.ConnectionPool`: each call has a connection and a transaction of its
              own, which is committed.

    Raises:
        TypeError: it is something else; an SQLAlchemy or Django connection whose driver is not
            psycopg 3 is found out at the first call.
    """

    def __init__(self, target: object) -> None:
        sql = SyncSql(lend_from(target))
        self._backends = SqlBackends(lambda _listen_dsn: sql)

    def sync_backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; none of their operations ever suspends."""
        return self._backends.backend(settings)
