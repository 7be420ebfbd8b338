"""The database of one command: a single session, opened at once or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from anyio.from_thread import start_blocking_portal
from psycopg.rows import TupleRow

from pgq_trio.cli.place import Place
from pgq_trio.cli.runtime import Backend, Interrupts, execute
from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import PgqError, StoreError
from pgq_trio.postgres import Connection, connect
from pgq_trio.postgres.embedded import open_embedded
from pgq_trio.settings import Settings, default_dsn
from pgq_trio.targets import EMBEDDED, MEMORY

R = TypeVar("R")


def ask(
    place: Place, question: Callable[[Queries], Awaitable[R]], *, may_create: bool = False
) -> R:
    """Open the queue of a place, ask it something, close it and return the answer.

    Args:
        may_create: whether a private PostgreSQL is made where there is none.

    Raises:
        PgqError: there is none.
        StoreError: there is no connection to be had.
    """

    async def on_dsn(dsn: str, settings: Settings) -> R:
        return await _ask(dsn, settings, question)

    return with_dsn(place, on_dsn, may_create=may_create)


def with_dsn(
    place: Place, use: Callable[[str, Settings], Awaitable[R]], *, may_create: bool = False
) -> R:
    """Call a function with the DSN of a place and the names of its objects; else as `ask`."""

    async def command(_interrupts: Interrupts) -> R:
        with place.in_environment():
            settings = place.settings()
            directory = place.directory if place.is_embedded else _embedded_in(default_dsn())
            if directory is None:
                return await use(default_dsn(), settings)
            if not may_create:
                _check_cluster(directory)
            async with open_embedded(directory) as dsn:
                return await use(dsn, settings)

    return execute(command)


def _check_cluster(directory: Path) -> None:
    try:
        is_there = (directory / "PG_VERSION").exists()
    except PermissionError:
        return  # whoever opens it says that better
    if not is_there:
        raise PgqError(
            f"there is no private PostgreSQL in {directory}; `pgq-trio install --data {directory}` "
            "makes one"
        )


def _embedded_in(dsn: str) -> Path | None:
    """Return the directory of a target such as `embedded:DIR`, as `open` understands it.

    Raises:
        PgqError: a queue that no other program can see.
    """
    if dsn.startswith(EMBEDDED) and dsn != EMBEDDED:
        return Path(dsn.removeprefix(EMBEDDED))
    if dsn in {EMBEDDED, MEMORY}:
        raise PgqError(
            f"{dsn!r} is a queue of one program alone; give a DSN, or --embedded with --data DIR"
        )
    return None


async def _ask(dsn: str, settings: Settings, question: Callable[[Queries], Awaitable[R]]) -> R:
    async with open_session(dsn) as session:
        return await question(Queries(PsycopgDriver(session), settings=settings))


@asynccontextmanager
async def open_session(dsn: str) -> AsyncGenerator[Connection[TupleRow]]:
    """Open one session in autocommit; somebody who waits at a prompt wants no second attempt.

    Raises:
        StoreError: there is no connection to be had.
    """
    try:
        session = await connect(dsn, autocommit=True)
    except psycopg.Error as exc:
        raise StoreError(f"cannot connect to PostgreSQL: {exc}") from exc
    async with session:
        yield session


@contextmanager
def embedded_beside(directory: Path, backend: Backend) -> Generator[str]:
    """Run a private PostgreSQL beside what comes in the block, and yield its DSN.

    On a loop of its own in another thread, since the block is to start an event loop itself.
    """
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(open_embedded(directory)) as dsn,
    ):
        yield dsn
