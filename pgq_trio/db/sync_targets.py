"""How what blocking programs have becomes a psycopg connection; knows no statement of the queue.

SQLAlchemy and Django are no dependencies: an object can be of theirs only if they are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg_pool

from pgq_trio.store.sync_sql import Lend

__all__ = ["lend_from"]

_EXPECTED = (
    "SyncPsycopgDriver takes psycopg's Connection, a psycopg_pool.ConnectionPool, SQLAlchemy's "
    "Connection or Session, or Django's connection"
)


def lend_from(target: object) -> Lend:
    """Return what lends a connection for each statement or transaction.

    Raises:
        TypeError: nothing can be lent from this.
    """
    if isinstance(target, psycopg.Connection):
        return _plain(target)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(target, psycopg_pool.ConnectionPool):
        # Leaving the block commits, or rolls back on an exception.
        return target.connection
    lend = _from_sqlalchemy(target) or _from_django(target)
    if lend is None:
        raise TypeError(f"{_EXPECTED}, got {_name(target)}{_hint(target)}")
    return lend


def _plain(connection: psycopg.Connection[Any]) -> Lend:
    @contextmanager
    def lend() -> Generator[psycopg.Connection[Any]]:
        yield connection

    return lend


def _from_sqlalchemy(target: Any) -> Lend | None:
    engine: Any = sys.modules.get("sqlalchemy.engine")
    if engine is None:
        return None
    orm: Any = sys.modules.get("sqlalchemy.orm")
    if orm is not None and isinstance(target, orm.Session | orm.scoped_session):
        return _sqlalchemy_lend(target.connection)
    if isinstance(target, engine.Connection):
        return _sqlalchemy_lend(lambda: target)
    return None


def _sqlalchemy_lend(connection_of: Callable[[], Any]) -> Lend:
    @contextmanager
    def lend() -> Generator[psycopg.Connection[Any]]:
        connection = connection_of()
        found = _psycopg3(
            connection.connection.driver_connection, "SQLAlchemy", "postgresql+psycopg"
        )
        if not connection.in_transaction():
            # As SQLAlchemy's own first statement does: without it, its commit() would do nothing,
            # and what is written here would be rolled back.
            connection.begin()
        yield found

    return lend


def _from_django(target: Any) -> Lend | None:
    # `django.db.connection` stands for another connection in each thread, asked for at each call.
    # Before the first one Django has not even imported the class of what it stands for.
    proxies: Any = sys.modules.get("django.utils.connection")
    backends: Any = sys.modules.get("django.db.backends.base.base")
    if not (
        (proxies is not None and isinstance(target, proxies.ConnectionProxy))
        or (backends is not None and isinstance(target, backends.BaseDatabaseWrapper))
    ):
        return None

    @contextmanager
    def lend() -> Generator[psycopg.Connection[Any]]:
        # What Django's own cursors look at first.
        target.validate_thread_sharing()
        _connect_django(target)
        target.validate_no_broken_transaction()
        found = _psycopg3(target.connection, "Django", "django.db.backends.postgresql")
        try:
            yield found
        except psycopg.OperationalError:
            # Has Django look at the end of the request whether the connection still works.
            target.errors_occurred = True
            raise

    return lend


def _connect_django(target: Any) -> None:
    try:
        target.ensure_connection()
    except Exception as exc:
        # Django's errors stand for the driver's, which is the cause.
        if isinstance(exc.__cause__, psycopg.Error):
            raise exc.__cause__ from exc
        raise


def _psycopg3(found: object, framework: str, setting: str) -> psycopg.Connection[Any]:
    if isinstance(found, psycopg.Connection):
        return found  # pyright: ignore[reportUnknownVariableType]
    raise TypeError(
        f"the driver of this {framework} connection is {type(found).__module__.partition('.')[0]};"
        f" SyncQueries needs psycopg 3: `{setting}` with the package `psycopg` installed"
    )


def _hint(target: object) -> str:
    names = {kind.__name__ for kind in type(target).__mro__}
    if isinstance(target, psycopg.AsyncConnection):
        return "; it needs an event loop: `queries.using(connection)` enqueues in its transaction"
    if names & {"AsyncSession", "AsyncConnection"}:
        return "; SQLAlchemy's async connections are not supported"
    if names & {"Engine", "sessionmaker"}:
        return "; give a connection or a session that it has opened, whose transaction is meant"
    if "ConnectionHandler" in names:
        return "; give one of its connections, such as connections['default']"
    if isinstance(target, str):
        return "; open it first: psycopg.connect(conninfo) or psycopg_pool.ConnectionPool(conninfo)"
    return ""


def _name(target: object) -> str:
    return f"{type(target).__module__}.{type(target).__qualname__}"
