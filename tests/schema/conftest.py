"""A pool on the database of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pgq_trio.postgres import ConnectionPool, open_pool


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[ConnectionPool[Any]]:
    """Connections to the empty database of this test."""
    async with open_pool(dsn, max_size=8) as pool:
        yield pool
