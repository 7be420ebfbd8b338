"""Databases installed by either package, and both packages on one of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator

import pytest
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings

from pgq_trio import PsycopgDriver, Queries
from pgq_trio.postgres import open_pool
from tests.conftest import NEWEST_SERVER
from tests.interop.peer import open_peer
from tests.interop.sides import Ours, Pair, Theirs
from tests.servers import FindServer, PostgresServer
from tests.worker.places import bound

__all__ = []


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)


@pytest.fixture(scope="session")
def their_install_sql() -> list[str]:
    """What PgQueuer installs with default settings."""
    return [QueryBuilderEnvironment(DBSettings()).build_install_query()]


@pytest.fixture(params=["installed-by-us", "installed-by-pgqueuer"])
def shared_dsn(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    install_sql: list[str],
    their_install_sql: list[str],
) -> Iterator[str]:
    """The conninfo string of an empty queue."""
    statements = install_sql if request.param == "installed-by-us" else their_install_sql
    with postgres_server.fresh_database(statements) as conninfo:
        yield conninfo


@pytest.fixture
def their_dsn(postgres_server: PostgresServer, their_install_sql: list[str]) -> Iterator[str]:
    """As `installed_dsn`, installed by PgQueuer."""
    with postgres_server.fresh_database(their_install_sql) as conninfo:
        yield conninfo


@pytest.fixture(params=["ours-first", "theirs-first"])
def direction(request: pytest.FixtureRequest) -> str:
    """Who is `one` in a pair."""
    value: str = request.param
    return value


@pytest.fixture
async def pair(shared_dsn: str, direction: str) -> AsyncGenerator[Pair]:
    """Both packages on one queue; each test runs in both directions."""
    async with open_pool(shared_dsn) as pool, open_peer(shared_dsn) as peer:
        ours = Ours(shared_dsn, Queries(PsycopgDriver(pool)))
        theirs = Theirs(shared_dsn, peer)
        if direction == "ours-first":
            yield Pair(ours, theirs, ours, theirs)
        else:
            yield Pair(ours, theirs, theirs, ours)


@pytest.fixture(autouse=True)
def _we_send_nothing_they_cannot_read(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """PgQueuer logs notifications that it cannot read, or not handle, as critical."""
    caplog.set_level(logging.CRITICAL, "pgqueuer")
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]


@pytest.fixture(scope="session", params=NEWEST_SERVER)
def postgres_server(request: pytest.FixtureRequest, find_server: FindServer) -> PostgresServer:
    """The newest PostgreSQL: the rooms of store and schema see to it that all others do as well."""
    return find_server(request.param)
