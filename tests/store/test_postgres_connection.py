"""The contract on a single connection, with names that need quotes in every statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from pgq_trio.schema import install_statements
from pgq_trio.settings import Settings
from tests.conftest import NEWEST_SERVER
from tests.servers import PostgresServer
from tests.store.postgres_world import connection_world
from tests.store.suite import *  # noqa: F403 - the tests themselves
from tests.store.world import World

# What differs between servers is seen by the suite on a pool.
pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)

SCHEMA = 'My "Schema"; DROP TABLE x; -- it\'s'
PREFIX = 'p%s{x}$1\\é" '


def odd(**changes: object) -> Settings:
    return Settings(schema=SCHEMA, prefix=PREFIX).with_changes(**changes)


@pytest.fixture(scope="module")
def odd_database(postgres_server: PostgresServer) -> Iterator[str]:
    with postgres_server.fresh_database(install_statements(odd())) as conninfo:
        yield conninfo


@pytest.fixture
def odd_dsn(odd_database: str) -> str:
    tables = [name for key, name in odd().sql_names().items() if "table" in key]
    with psycopg.connect(odd_database, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(tables)}".encode())
    return odd_database


@pytest.fixture
async def world(odd_dsn: str) -> AsyncIterator[World]:
    async with connection_world(odd_dsn, odd()) as world:
        yield world


@pytest.fixture
async def outcomes_world(odd_dsn: str) -> AsyncIterator[World]:
    async with connection_world(odd_dsn, odd(history="outcomes")) as world:
        yield world
