"""A PostgreSQL for a test session, with a database for each test; it knows no test runner.

It blocks and has no event loop of its own in the caller's thread, so that fixtures can use it
whatever runs the tests.
"""

from __future__ import annotations

from collections.abc import Generator
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


class TestServer:
    """A running server on which tests make databases.

    Attributes:
        conninfo: how to reach it as somebody who may create databases.
    """

    __test__ = False  # pytest collects what is called Test...

    def __init__(self, conninfo: str) -> None:
        self.conninfo: str = conninfo
        self._admin: psycopg.Connection[Any] = psycopg.connect(conninfo, autocommit=True)
        self._templates: dict[Settings, str] = {}

    def dsn(self, dbname: str) -> str:
        """Return the conninfo of one database of this server."""
        return make_conninfo(self.conninfo, dbname=dbname)

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
        name = self._create(self._template(settings or Settings()))
        try:
            yield self.dsn(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop the templates and disconnect; the server goes on."""
        for name in self._templates.values():
            self._drop(name)
        self._templates.clear()
        self._admin.close()

    def _template(self, settings: Settings) -> str:
        name = self._templates.get(settings)
        if name is None:
            name = self._templates[settings] = self._create("template1")
            with psycopg.connect(self.dsn(name)) as connection:
                SyncQueries(SyncPsycopgDriver(connection), settings=settings).install()
        return name

    def _create(self, template: str) -> str:
        name = f"pgq_test_{uuid4().hex[:16]}"
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@contextmanager
def server_at(conninfo: str) -> Generator[TestServer]:
    """Use a server that runs already.

    Raises:
        psycopg.OperationalError: it cannot be reached.
    """
    server = TestServer(conninfo)
    try:
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
