"""The PostgreSQL store keeps the contract on an asyncpg pool."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pgq_trio.settings import Settings
from tests.store.asyncpg_world import asyncpg_pool_world
from tests.store.suite import *  # noqa: F403 - the tests themselves
from tests.store.world import World


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncpg runs on asyncio only."""
    return "asyncio"


@pytest.fixture
async def world(emptied_dsn: str) -> AsyncIterator[World]:
    async with asyncpg_pool_world(emptied_dsn, Settings()) as world:
        yield world


@pytest.fixture
async def outcomes_world(emptied_dsn: str) -> AsyncIterator[World]:
    async with asyncpg_pool_world(emptied_dsn, Settings(history="outcomes")) as world:
        yield world
