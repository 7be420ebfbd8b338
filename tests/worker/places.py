"""Fixtures of rooms whose tests run a worker: in memory, and on PostgreSQL."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest

from pgq_trio.db import InMemoryDriver
from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer
from tests.worker.tools import Place

__all__ = ["bounded", "database", "place"]

#: Seconds after which a test has failed, whatever it waits for.
BOUND = 40.0


def bounded(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
    """Have an async test fail instead of hang."""

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        with anyio.fail_after(BOUND):
            await test(*args, **kwargs)

    return run


def bound(item: pytest.Function) -> None:
    """Put `bounded` around a test that is async."""
    if inspect.iscoroutinefunction(item.obj):
        item.obj = bounded(item.obj)


@pytest.fixture(params=["memory", *NEWEST_SERVER])
def place(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> Iterator[Place]:
    """An empty queue, in memory and in a database of its own."""
    if request.param == "memory":
        yield Place(InMemoryDriver())
        return
    with find_server(request.param).fresh_database(install_sql) as dsn:
        yield Place(dsn)


@pytest.fixture(params=NEWEST_SERVER)
def database(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> Iterator[Place]:
    """An empty queue in a database of its own, for what memory cannot show."""
    with find_server(request.param).fresh_database(install_sql) as dsn:
        yield Place(dsn)
