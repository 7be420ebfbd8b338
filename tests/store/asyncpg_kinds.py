"""The kinds of asyncpg drivers on one database, as fixtures that a module of tests imports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from pgq_trio.abc import Backend, Driver
from pgq_trio.db import AsyncpgDriver, AsyncpgPoolDriver
from pgq_trio.settings import Settings
from tests.store.asyncpg_world import (
    asyncpg_connection,
    asyncpg_pool,
    asyncpg_pool_world,
)
from tests.store.world import World

__all__ = ["Kind", "OpenKind", "kind", "open_kind", "world"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of driver, and what it stands on."""

    target: Any
    driver: Driver

    @property
    def backend(self) -> Backend:
        return self.driver.backend(Settings())


OpenKind = Callable[[str], Awaitable[Kind]]


@pytest.fixture(params=["connection", "pool", "pool of one"])
async def open_kind(request: pytest.FixtureRequest) -> AsyncIterator[OpenKind]:
    """Opens the kind of driver that is tested, on a database."""
    async with AsyncExitStack() as stack:

        async def open_it(dsn: str) -> Kind:
            if request.param == "connection":
                opened = asyncpg_connection(dsn, application_name="me")
                connection = await stack.enter_async_context(opened)
                return Kind(connection, AsyncpgDriver(connection))
            size = 1 if request.param == "pool of one" else 3
            opened = asyncpg_pool(dsn, max_size=size, application_name="me")
            pool = await stack.enter_async_context(opened)
            return Kind(pool, AsyncpgPoolDriver(pool))

        yield open_it


@pytest.fixture
async def kind(emptied_dsn: str, open_kind: OpenKind) -> Kind:
    return await open_kind(emptied_dsn)


@pytest.fixture
async def world(emptied_dsn: str) -> AsyncIterator[World]:
    async with asyncpg_pool_world(emptied_dsn, Settings()) as world:
        yield world
