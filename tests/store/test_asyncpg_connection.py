"""The contract on a single asyncpg connection, with names that need quotes in every statement."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import NEWEST_SERVER
from tests.store.asyncpg_world import asyncpg_connection_world
from tests.store.suite import *  # noqa: F403 - the tests themselves
from tests.store.test_postgres_connection import odd, odd_database, odd_dsn
from tests.store.world import World

__all__ = ["odd_database", "odd_dsn"]

# What differs between servers is seen by the suite on a pool.
pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """asyncpg runs on asyncio only."""
    return "asyncio"


@pytest.fixture
async def world(odd_dsn: str) -> AsyncIterator[World]:
    async with asyncpg_connection_world(odd_dsn, odd()) as world:
        yield world


@pytest.fixture
async def outcomes_world(odd_dsn: str) -> AsyncIterator[World]:
    async with asyncpg_connection_world(odd_dsn, odd(history="outcomes")) as world:
        yield world
