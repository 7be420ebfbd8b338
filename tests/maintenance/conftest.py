"""A bound on each test of the housekeeping."""

from __future__ import annotations

import pytest

from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer, PostgresServer
from tests.worker.places import bound


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)


@pytest.fixture(scope="session", params=NEWEST_SERVER)
def postgres_server(request: pytest.FixtureRequest, find_server: FindServer) -> PostgresServer:
    """One server: what differs between servers is seen by the suites of the stores."""
    return find_server(request.param)
