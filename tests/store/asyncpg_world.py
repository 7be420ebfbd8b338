"""A `World` on asyncpg, and how its connections are made where psycopg's are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from psycopg.conninfo import conninfo_to_dict

from pgq_trio.db import AsyncpgDriver, AsyncpgPoolDriver
from pgq_trio.postgres import connect
from pgq_trio.settings import Settings
from tests.store.postgres_world import passing_on
from tests.store.world import World

_NAMES = {"dbname": "database"}
_KNOWN = {"host", "port", "user", "password", "dbname"}


def connect_args(conninfo: str, **server_settings: str) -> dict[str, Any]:
    """The arguments with which asyncpg connects where psycopg does."""
    given = conninfo_to_dict(conninfo)
    args: dict[str, Any] = {
        _NAMES.get(key, key): value
        for key, value in given.items()
        if key in _KNOWN and value is not None
    }
    return {**args, "server_settings": server_settings}


@asynccontextmanager
async def asyncpg_connection(conninfo: str, **server_settings: str) -> AsyncIterator[Any]:
    """A connection for a block."""
    connection = await asyncpg.connect(**connect_args(conninfo, **server_settings))
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def asyncpg_pool(
    conninfo: str, *, max_size: int = 4, **server_settings: str
) -> AsyncIterator[Any]:
    """A pool for a block."""
    args = connect_args(conninfo, **server_settings)
    async with asyncpg.create_pool(**args, min_size=1, max_size=max_size) as pool:
        yield pool


@asynccontextmanager
async def asyncpg_pool_world(dsn: str, settings: Settings) -> AsyncIterator[World]:
    """A store on a pool."""
    async with asyncpg_pool(dsn) as pool, await connect(dsn, autocommit=True) as aside:
        yield World(AsyncpgPoolDriver(pool).backend(settings), passing_on(aside, settings))


@asynccontextmanager
async def asyncpg_connection_world(dsn: str, settings: Settings) -> AsyncIterator[World]:
    """A store on a single connection."""
    async with asyncpg_connection(dsn) as one, await connect(dsn, autocommit=True) as aside:
        yield World(AsyncpgDriver(one).backend(settings), passing_on(aside, settings))
