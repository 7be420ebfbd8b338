"""One database for all tests of a module, emptied before each: a clone for each is slower."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.servers import PostgresServer

TRUNCATE = "TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics, pgqueuer_schedules"


@pytest.fixture(scope="module")
def shared_database(postgres_server: PostgresServer, install_sql: list[str]) -> Iterator[str]:
    """The conninfo string of the database."""
    with postgres_server.fresh_database(install_sql) as conninfo:
        yield conninfo


@pytest.fixture
def emptied_dsn(shared_database: str) -> str:
    """The same, with the queue installed and nothing in it."""
    with psycopg.connect(shared_database, autocommit=True) as connection:
        connection.execute(TRUNCATE)
    return shared_database
