"""PgQueuer's own installation, beside which ours is held; asyncio only, like PgQueuer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.db import AsyncpgDriver
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.queries import Queries
from psycopg.conninfo import conninfo_to_dict


async def asyncpg_connect(dsn: str) -> Any:
    """Connect asyncpg where a libpq conninfo string points."""
    info = conninfo_to_dict(dsn)
    return await asyncpg.connect(
        host=info["host"], port=info.get("port"), user=info["user"], database=info["dbname"]
    )


async def with_queries(
    dsn: str, action: Callable[[Queries], Awaitable[Any]], durability: str = "durable"
) -> Any:
    """Run something with PgQueuer's queries."""
    connection = await asyncpg_connect(dsn)
    environment = QueryBuilderEnvironment(DBSettings(durability=Durability(durability)))
    try:
        return await action(Queries(AsyncpgDriver(connection), environment))
    finally:
        await connection.close()


def install(dsn: str, durability: str = "durable") -> None:
    """Install PgQueuer's tables, in an event loop of its own."""
    asyncio.run(with_queries(dsn, lambda queries: queries.install(), durability))


def fetch(dsn: str, query: str, *params: object) -> list[tuple[Any, ...]]:
    """Run one query as plain psycopg."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), params or None)
        return cursor.fetchall() if cursor.description else []


def plan_upgrade(dsn: str) -> tuple[str, ...]:
    """Return the statements that PgQueuer's upgrade would run."""
    plan = asyncio.run(with_queries(dsn, lambda queries: queries.plan_upgrade()))
    statements: tuple[str, ...] = plan.statements
    return statements


def optimize_autovacuum(dsn: str) -> None:
    """Have PgQueuer set the storage parameters it recommends."""
    asyncio.run(with_queries(dsn, lambda queries: queries.optimize_autovacuum()))
