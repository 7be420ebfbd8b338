"""The places under these tests, and a bound on each of them."""

from __future__ import annotations

import pytest

from pgq_trio.client import watching
from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer, PostgresServer
from tests.worker.places import bound, database, place

__all__ = ["database", "place"]


@pytest.fixture
def no_early_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have looks come of notifications only."""
    monkeypatch.setattr(watching, "EARLY_LOOKS", ())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)


@pytest.fixture(scope="session", params=NEWEST_SERVER)
def postgres_server(request: pytest.FixtureRequest, find_server: FindServer) -> PostgresServer:
    """One server: what differs between servers is seen by the suites of the stores."""
    return find_server(request.param)
