"""What `open` may be pointed at, and how each of it becomes a driver for the life of a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import psycopg

from pgq_trio.abc import Driver
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.errors import StoreError
from pgq_trio.postgres import open_pool
from pgq_trio.settings import default_dsn

#: A DSN or conninfo, "memory:", "embedded:", "embedded:DIR", a driver, or None.
Target: TypeAlias = str | Driver | None

MEMORY = "memory:"
EMBEDDED = "embedded:"


@asynccontextmanager
async def open_target(
    target: Target, *, min_size: int, max_size: int
) -> AsyncGenerator[Driver, None]:
    """Open what a target names and yield a driver on it.

    A driver that is given stays the caller's: it is neither opened nor closed here.

    Raises:
        TypeError: this can be no target.
        StoreError: the server refuses the connection for a reason that no retry mends, or was
            not there within 300 s.
    """
    if target is None:
        target = default_dsn()
    if not isinstance(target, str):
        if not isinstance(target, Driver):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the target is a DSN, 'memory:', 'embedded:', a driver or None, got {target!r}"
            )
        yield target
    elif target == MEMORY:
        yield InMemoryDriver()
    elif target.startswith(EMBEDDED):
        from pgq_trio.postgres.embedded import open_embedded

        directory = target.removeprefix(EMBEDDED)
        async with (
            open_embedded(Path(directory) if directory else None) as dsn,
            _open_dsn(dsn, min_size, max_size) as driver,
        ):
            yield driver
    else:
        async with _open_dsn(target, min_size, max_size) as driver:
            yield driver


@asynccontextmanager
async def _open_dsn(dsn: str, min_size: int, max_size: int) -> AsyncGenerator[Driver, None]:
    pool = open_pool(dsn, min_size=min_size, max_size=max_size, autocommit=True)
    async with AsyncExitStack() as opened:
        try:
            driver = PsycopgDriver(await opened.enter_async_context(pool))
        except psycopg.Error as exc:
            raise StoreError(f"cannot connect to PostgreSQL: {exc}") from exc
        yield driver
