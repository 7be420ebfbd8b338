"""Where the queues of these tests are, and a bound on each async test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer
from tests.worker.places import bound


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)


@pytest.fixture(params=["memory", *NEWEST_SERVER])
def target(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> Iterator[str]:
    """What `PgQueuer.open` opens: an empty queue in memory, and in a database of its own."""
    if request.param == "memory":
        yield "memory:"
        return
    with find_server(request.param).fresh_database(install_sql) as dsn:
        yield dsn
