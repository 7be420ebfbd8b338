"""The PostgreSQL store keeps the contract, on a pool."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pgq_trio.settings import Settings
from tests.store.postgres_world import pool_world
from tests.store.suite import *  # noqa: F403 - the tests themselves
from tests.store.world import World


@pytest.fixture
async def world(emptied_dsn: str) -> AsyncIterator[World]:
    async with pool_world(emptied_dsn, Settings()) as world:
        yield world


@pytest.fixture
async def outcomes_world(emptied_dsn: str) -> AsyncIterator[World]:
    async with pool_world(emptied_dsn, Settings(history="outcomes")) as world:
        yield world
