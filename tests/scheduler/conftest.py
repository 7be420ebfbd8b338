"""The stores under the scheduler: in memory, and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from pgq_trio.abc import ScheduleStore
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.postgres import open_pool
from pgq_trio.settings import Settings


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[ScheduleStore, None]:
    """An empty schedules table."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            driver = InMemoryDriver()
        else:
            dsn: str = request.getfixturevalue("installed_dsn")
            driver = PsycopgDriver(await stack.enter_async_context(open_pool(dsn)))
        yield driver.backend(Settings()).schedules
