"""Programs without an event loop: what they hold, and how they begin, commit and roll back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import django
import psycopg
import psycopg_pool
import sqlalchemy
import sqlalchemy.orm
from django.conf import settings as django_settings
from psycopg.conninfo import conninfo_to_dict

#: Those whose transaction is the caller's.
TRANSACTIONS = [
    "psycopg",
    "psycopg, transaction()",
    "SQLAlchemy Connection",
    "SQLAlchemy Connection, begin()",
    "SQLAlchemy Session",
    "SQLAlchemy scoped_session",
    "Django",
    "Django connections[]",
]

#: Those that write at once.
AT_ONCE = [
    "psycopg in autocommit",
    "psycopg_pool",
    "psycopg_pool in autocommit",
    "SQLAlchemy AUTOCOMMIT",
    "Django in autocommit",
]


@dataclass(frozen=True, slots=True)
class Program:
    """What a program gives to `SyncPsycopgDriver`, and what it does with its transaction."""

    target: Any
    commit: Callable[[], object]
    rollback: Callable[[], object]


class _Leave(Exception):
    """Leaves a transaction block by an error."""


def _ends(block: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """How a block that was entered is left: normally, or by an error."""

    def rollback() -> None:
        error = _Leave()
        with suppress(_Leave):
            block.__exit__(_Leave, error, None)

    return lambda: block.__exit__(None, None, None), rollback


@contextmanager
def program(kind: str, dsn: str) -> Iterator[Program]:
    """A program of some kind; where it has a transaction, nothing has run in it yet."""
    make = {"psycopg": _psycopg, "SQLAlchemy": _sqlalchemy, "Django": _django}
    with ExitStack() as stack:
        [opened] = [make[name](kind, dsn, stack) for name in make if kind.startswith(name)]
        yield opened


def _psycopg(kind: str, dsn: str, stack: ExitStack) -> Program:
    if "pool" in kind:
        kwargs = {"autocommit": True} if "autocommit" in kind else {}
        pool = psycopg_pool.ConnectionPool(dsn, min_size=1, open=False, kwargs=kwargs)
        return Program(stack.enter_context(pool), _nothing, _nothing)
    connection = stack.enter_context(psycopg.connect(dsn, autocommit="autocommit" in kind))
    if "transaction()" in kind:
        block = connection.transaction()
        block.__enter__()
        return Program(connection, *_ends(block))
    return Program(connection, connection.commit, connection.rollback)


def engine_on(dsn: str, driver: str = "psycopg", **options: Any) -> sqlalchemy.Engine:
    """An SQLAlchemy engine where psycopg connects."""
    given = conninfo_to_dict(dsn)
    # The creator's arguments, since a directory of a socket is no part of an URL.
    return sqlalchemy.create_engine(f"postgresql+{driver}://", connect_args=given, **options)


def _sqlalchemy(kind: str, dsn: str, stack: ExitStack) -> Program:
    if "AUTOCOMMIT" in kind:
        engine = engine_on(dsn, isolation_level="AUTOCOMMIT")
    else:
        engine = engine_on(dsn)
    stack.callback(engine.dispose)
    if "Session" in kind:
        session = stack.enter_context(sqlalchemy.orm.Session(engine))
        return Program(session, session.commit, session.rollback)
    if "scoped_session" in kind:
        scoped = sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(engine))
        stack.callback(scoped.remove)
        return Program(scoped, scoped.commit, scoped.rollback)
    connection = stack.enter_context(engine.connect())
    if "begin()" in kind:
        block = connection.begin()
        return Program(connection, block.commit, block.rollback)
    return Program(connection, connection.commit, connection.rollback)


def configure_django(dsn: str) -> Any:
    """Point Django at a database, as the settings of a project would; returns its connection."""
    given = conninfo_to_dict(dsn)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "HOST": given.get("host", ""),
        "PORT": str(given.get("port", "")),
        "USER": given.get("user", ""),
        "PASSWORD": given.get("password", ""),
        # Kept from one request to the next.
        "CONN_MAX_AGE": None,
    }
    if not django_settings.configured:
        django_settings.configure(DATABASES={"default": database}, USE_TZ=False)
        django.setup()
    from django.db import connection

    connection.close()
    connection.settings_dict.update(database)
    return connection


def _django(kind: str, dsn: str, stack: ExitStack) -> Program:
    from django.db import connections, transaction

    connection = configure_django(dsn)
    stack.callback(connection.close)
    target = connections["default"] if "connections" in kind else connection
    if "autocommit" in kind:
        return Program(target, _nothing, _nothing)
    block = transaction.atomic()
    block.__enter__()
    return Program(target, *_ends(block))


def _nothing() -> None:
    """Nothing is to be committed."""


def in_thread(function: Callable[[], object]) -> BaseException | None:
    """Run something in another thread; what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:  # noqa: BLE001 - given back
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None
