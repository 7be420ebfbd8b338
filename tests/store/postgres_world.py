"""A `World` on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import connect, open_pool
from pgq_trio.settings import Settings
from tests.store.world import Passing, World


def passing_on(connection: psycopg.AsyncConnection[Any], settings: Settings) -> Passing:
    """Let time pass by moving every row's times into the past; the fence stays as it is."""
    names = settings.sql_names()

    async def pass_time(seconds: float) -> None:
        ago = f"- interval '{seconds} seconds'"
        await connection.execute(
            f"UPDATE {names['queue_table']} SET created = created {ago},"
            f" heartbeat = heartbeat {ago}, execute_after = execute_after {ago}".encode()
        )
        for table in ("queue_table_log", "statistics_table"):
            await connection.execute(f"UPDATE {names[table]} SET created = created {ago}".encode())
        await connection.execute(
            f"UPDATE {names['schedules_table']} SET heartbeat = heartbeat {ago},"
            f" next_run = next_run {ago}".encode()
        )

    return pass_time


@asynccontextmanager
async def pool_world(
    dsn: str, settings: Settings, *, autocommit: bool = True
) -> AsyncIterator[World]:
    """A store on a pool."""
    async with (
        open_pool(dsn, max_size=8, autocommit=autocommit) as pool,
        await connect(dsn, autocommit=True) as aside,
    ):
        yield World(PsycopgDriver(pool).backend(settings), passing_on(aside, settings))


@asynccontextmanager
async def connection_world(dsn: str, settings: Settings) -> AsyncIterator[World]:
    """A store on a single connection."""
    async with (
        await connect(dsn, autocommit=True) as one,
        await connect(dsn, autocommit=True) as aside,
    ):
        yield World(PsycopgDriver(one).backend(settings), passing_on(aside, settings))
