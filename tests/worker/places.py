"""Fixtures of rooms whose tests run a worker: in memory, and on every PostgreSQL there is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

from pgq_trio.db import InMemoryDriver
from tests.conftest import SHARED_SERVERS
from tests.servers import Binaries, PostgresServer, foreign_server, own_server
from tests.worker.tools import Place

__all__ = ["bounded", "database", "find_server", "place"]

#: Seconds after which a test has failed, whatever it waits for.
BOUND = 40.0

#: Returns the server that a parameter stands for, started when first asked for.
FindServer = Callable[["Binaries | str"], PostgresServer]


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


@pytest.fixture(scope="session")
def find_server() -> Iterator[FindServer]:
    """As `postgres_server`, but without making the tests in memory wait for it or repeat."""
    with ExitStack() as stack:
        found: dict[object, PostgresServer] = {}

        def find(param: Binaries | str) -> PostgresServer:
            if param not in found:
                opened = own_server(param) if isinstance(param, Binaries) else foreign_server(param)
                found[param] = stack.enter_context(opened)
            return found[param]

        yield find


@pytest.fixture(params=["memory", *SHARED_SERVERS])
def place(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> Iterator[Place]:
    """An empty queue, in memory and in a database of its own."""
    if request.param == "memory":
        yield Place(InMemoryDriver())
        return
    with find_server(request.param).fresh_database(install_sql) as dsn:
        yield Place(dsn)


@pytest.fixture(params=SHARED_SERVERS)
def database(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> Iterator[Place]:
    """An empty queue in a database of its own, for what memory cannot show."""
    with find_server(request.param).fresh_database(install_sql) as dsn:
        yield Place(dsn)
