"""A PostgreSQL for a test session, with a database for each test; it knows no test runner.

It blocks and has no event loop of its own in the caller's thread, so that fixtures can use it
whatever runs the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from anyio.from_thread import start_blocking_portal
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgq_trio.client.sync_queries import SyncQueries
from pgq_trio.db import SyncPsycopgDriver
from pgq_trio.postgres.embedded import open_embedded
from pgq_trio.settings import Settings

__all__ = ["TestServer", "private_server", "server_at"]

#: The release whose CREATE DATABASE knows strategies.
_STRATEGIES = 15_00_00


class TestServer:
    """A server on which tests make databases; it may be restarted meanwhile.

    Attributes:
        conninfo: how to reach it as somebody who may create databases.
    """

    __test__ = False  # pytest collects what is called Test...

    def __init__(self, conninfo: str) -> None:
        self.conninfo: str = conninfo
        self._admin: psycopg.Connection[Any] | None = None
        self._templates: dict[Hashable, str] = {}

    def dsn(self, dbname: str) -> str:
        """Return the conninfo of one database of this server."""
        return make_conninfo(self.conninfo, dbname=dbname)

    def connection(self) -> psycopg.Connection[Any]:
        """Return a connection in autocommit, the same one while it lasts.

        Raises:
            psycopg.OperationalError: the server cannot be reached.
        """
        if self._admin is not None:
            try:  # one that the server has ended does not know that before it is used
                self._admin.execute("SELECT")
            except psycopg.OperationalError:
                self._disconnect()
        if self._admin is None:
            self._admin = psycopg.connect(self.conninfo, autocommit=True)
        return self._admin

    @contextmanager
    def database(self, settings: Settings | None = None) -> Generator[str]:
        """Make a database with the queue's tables; it is dropped at the end, whoever uses it.

        It is a copy of a template, in which the tables are installed once.

        Args:
            settings: names of the database objects; None: from the environment.

        Yields:
            its conninfo.

        Raises:
            psycopg.Error: the server does not let us, or is gone.
        """
        names = settings or Settings()
        with self._copy(names, lambda dsn: _install(dsn, names)) as dsn:
            yield dsn

    def close(self) -> None:
        """Drop the templates and disconnect; the server goes on."""
        for name in self._templates.values():
            self._drop(name)
        self._templates.clear()
        self._disconnect()

    @contextmanager
    def _copy(self, key: Hashable, fill: Callable[[str], None]) -> Generator[str]:
        """Make a copy of the template with this key, which is filled when it is first asked for."""
        if key not in self._templates:
            template = self._create("template1")
            fill(self.dsn(template))
            self._templates[key] = template
        name = self._create(self._templates[key])
        try:
            yield self.dsn(name)
        finally:
            self._drop(name)

    def _disconnect(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _create(self, template: str) -> str:
        name = f"pgq_test_{uuid4().hex[:16]}"
        create = "CREATE DATABASE {} TEMPLATE {}"
        connection = self.connection()
        if connection.info.server_version >= _STRATEGIES:
            # It takes 9 ms, and the other strategy 32 ms for an empty database on release 18.
            create += " STRATEGY FILE_COPY"
        connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def _drop(self, name: str) -> None:
        self.connection().execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


def _install(dsn: str, settings: Settings) -> None:
    with psycopg.connect(dsn) as connection:
        SyncQueries(SyncPsycopgDriver(connection), settings=settings).install()


@contextmanager
def server_at(conninfo: str) -> Generator[TestServer]:
    """Use a server that runs already.

    Raises:
        psycopg.OperationalError: it cannot be reached.
    """
    server = TestServer(conninfo)
    try:
        server.connection()
        yield server
    finally:
        server.close()


@contextmanager
def private_server() -> Generator[TestServer]:
    """Start the private server of the extra `embedded`, which is gone at the end.

    Raises:
        EmbeddedUnavailable: the extra is missing, or does not run here.
        EmbeddedError: the server does not start.
    """
    with (
        start_blocking_portal(backend="asyncio") as portal,
        portal.wrap_async_context_manager(open_embedded()) as conninfo,
        server_at(conninfo) as server,
    ):
        yield server
