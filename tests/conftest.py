"""Fixtures of all tests: both event loops, real PostgreSQL servers, one database per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.servers import (
    Binaries,
    FindServer,
    MakeDsn,
    OwnServer,
    PostgresServer,
    available_binaries,
    foreign_server,
    own_server as open_own_server,
)

OWN_BINARIES = [pytest.param(found, id=found.name) for found in available_binaries()]
TEST_DSN = os.environ.get("PGQ_TEST_DSN")
SHARED_SERVERS = [pytest.param(TEST_DSN, id="PGQ_TEST_DSN")] if TEST_DSN else OWN_BINARIES
#: For the rooms above the stores: what releases of PostgreSQL do differently, the tests of stores,
#: schema and connections see, which run on every server that is here.
NEWEST_SERVER = SHARED_SERVERS[:1]


@pytest.fixture(scope="module", params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on Trio, then on asyncio."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def find_server() -> Iterator[FindServer]:
    """Return the server of a parameter, without making the tests in memory wait for it."""
    with ExitStack() as stack:
        found: dict[object, PostgresServer] = {}

        def find(param: Binaries | str) -> PostgresServer:
            if param not in found:
                if isinstance(param, Binaries):
                    found[param] = stack.enter_context(open_own_server(param))
                else:
                    found[param] = stack.enter_context(foreign_server(param))
            return found[param]

        yield find


@pytest.fixture(scope="session", params=SHARED_SERVERS)
def postgres_server(request: pytest.FixtureRequest, find_server: FindServer) -> PostgresServer:
    """The server that tests share; take `own_server` to stop or restart one."""
    return find_server(request.param)


@pytest.fixture(params=OWN_BINARIES)
def own_server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server of this test alone, which it may stop, start and restart."""
    with open_own_server(request.param) as server:
        yield server


@pytest.fixture
def dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The conninfo string of an empty database of this test alone."""
    with postgres_server.fresh_database() as conninfo:
        yield conninfo


@pytest.fixture
def make_dsn(postgres_server: PostgresServer) -> Iterator[MakeDsn]:
    """A function that gives the conninfo string of one more empty database at each call."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(postgres_server.fresh_database())


@pytest.fixture(scope="session")
def install_sql() -> list[str]:
    """The statements that install the queue with default settings."""
    # Imported here, so that tests of lower floors run while the schema is being written.
    from pgq_trio.schema import install_statements
    from pgq_trio.settings import Settings

    return install_statements(Settings())


@pytest.fixture
def installed_dsn(postgres_server: PostgresServer, install_sql: list[str]) -> Iterator[str]:
    """As `dsn`, with the queue installed (a clone of a template, so it costs the same)."""
    with postgres_server.fresh_database(install_sql) as conninfo:
        yield conninfo
