"""The stores under the scheduler: in memory, and on every PostgreSQL there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from pgq_trio.abc import Driver, ScheduleStore
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.postgres import open_pool
from pgq_trio.settings import Settings
from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer


@pytest.fixture(params=["memory", *NEWEST_SERVER])
async def driver(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> AsyncGenerator[Driver, None]:
    """An empty queue."""
    if request.param == "memory":
        yield InMemoryDriver()
        return
    with find_server(request.param).fresh_database(install_sql) as dsn:
        async with open_pool(dsn) as pool:
            yield PsycopgDriver(pool)


@pytest.fixture
def store(driver: Driver) -> ScheduleStore:
    """Its empty schedules table."""
    return driver.backend(Settings()).schedules
