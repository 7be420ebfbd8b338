"""The stores under the scheduler: in memory, and on every PostgreSQL there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from pgq_trio.abc import ScheduleStore
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.postgres import open_pool
from pgq_trio.settings import Settings
from tests.conftest import NEWEST_SERVER
from tests.servers import Binaries, PostgresServer, foreign_server, own_server

#: Returns the server that a parameter stands for, started when first asked for.
FindServer = Callable[["Binaries | str"], PostgresServer]


@pytest.fixture(scope="session")
def find_server() -> Iterator[FindServer]:
    """As `postgres_server`, but without making the tests in memory wait for it or repeat."""
    with ExitStack() as stack:
        running: dict[object, PostgresServer] = {}

        def find(param: Binaries | str) -> PostgresServer:
            if param not in running:
                opened = own_server(param) if isinstance(param, Binaries) else foreign_server(param)
                running[param] = stack.enter_context(opened)
            return running[param]

        yield find


@pytest.fixture(params=["memory", *NEWEST_SERVER])
async def store(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> AsyncGenerator[ScheduleStore, None]:
    """An empty schedules table."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            driver: InMemoryDriver | PsycopgDriver = InMemoryDriver()
        else:
            server = find_server(request.param)
            dsn = stack.enter_context(server.fresh_database(install_sql))
            driver = PsycopgDriver(await stack.enter_async_context(open_pool(dsn)))
        yield driver.backend(Settings()).schedules
