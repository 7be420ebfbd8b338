"""PgQueuer 1.6 at work beside the tests: asyncio in a thread of its own, so that ours may be Trio.

`Peer.run` is the only bridge between the two event loops; what a coroutine uses must be made on the
peer's loop (`Peer.make`). It knows nothing of our package.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack

import anyio
import anyio.to_thread
import pgqueuer
import psycopg
from pgqueuer.db import AsyncpgDriver, Driver, PsycopgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from tests.schema.pgqueuers import asyncpg_connect

T = TypeVar("T")

DriverName: TypeAlias = Literal["asyncpg", "psycopg"]

#: How long the peer may take to start or to end, in seconds.
LIMIT = 20.0


class TheirRunArguments(TypedDict, total=False):
    """Those arguments of PgQueuer's `run` that tests give."""

    mode: QueueExecutionMode
    batch_size: int
    dequeue_timeout: timedelta
    heartbeat_timeout: timedelta


class Peer:
    """PgQueuer on one database; made by `open_peer`.

    Attributes:
        queries: PgQueuer's own, on one connection; for coroutines on the peer's loop.
    """

    queries: Queries

    def __init__(self, dsn: str, driver: DriverName) -> None:
        self._dsn = dsn
        self._driver: DriverName = driver
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="pgqueuer", daemon=True)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have the peer's event loop run a coroutine; cancelled, it is cancelled there."""
        future = self._begin(coroutine)
        try:
            return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
        finally:
            future.cancel()

    async def make(self, factory: Callable[[], T]) -> T:
        """Have something made on the peer's event loop."""

        async def call() -> T:
            return factory()

        return await self.run(call())

    @asynccontextmanager
    async def working(
        self,
        register: Callable[[pgqueuer.PgQueuer], None],
        *,
        at_end: Callable[[], object] = lambda: None,
        **options: Unpack[TheirRunArguments],
    ) -> AsyncGenerator[None]:
        """Have a worker and scheduler run during a block, on a connection of its own.

        Args:
            register: registers entrypoints and schedules.
            at_end: called on the peer's loop when it is asked to stop: PgQueuer waits for handlers
                for ever.
        """
        stop = await self.make(asyncio.Event)
        work = partial(self._work, register, at_end, stop, options)
        running = self._begin(work())
        try:
            yield
        finally:
            self._loop.result().call_soon_threadsafe(stop.set)
            with anyio.fail_after(LIMIT, shield=True):
                await anyio.to_thread.run_sync(running.result, abandon_on_cancel=True)

    async def drain(
        self,
        register: Callable[[pgqueuer.PgQueuer], None],
        **options: Unpack[TheirRunArguments],
    ) -> None:
        """Run what is queued, then return."""
        options["mode"] = QueueExecutionMode.drain
        with anyio.fail_after(LIMIT):
            await self.run(self._work(register, lambda: None, asyncio.Event(), options))

    async def _work(
        self,
        register: Callable[[pgqueuer.PgQueuer], None],
        at_end: Callable[[], object],
        stop: asyncio.Event,
        options: TheirRunArguments,
    ) -> None:
        async with _connected(self._dsn, self._driver) as driver:
            pgq = pgqueuer.PgQueuer(driver)
            register(pgq)
            stopping = asyncio.create_task(stop.wait())
            running = asyncio.create_task(pgq.run(**options))
            try:
                await asyncio.wait({stopping, running}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                at_end()
                pgq.shutdown.set()
                await running

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        # In an empty context: by a copy of the caller's, AnyIO would take the peer's loop for Trio.
        return contextvars.Context().run(
            asyncio.run_coroutine_threadsafe, coroutine, self._loop.result()
        )

    def _run_loop(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            if self._loop.done():
                raise
            self._loop.set_exception(exc)

    async def _serve(self) -> None:
        async with _connected(self._dsn, self._driver) as driver:
            self.queries = Queries(driver)
            self._loop.set_result(asyncio.get_running_loop())
            await self._end.wait()


@asynccontextmanager
async def open_peer(dsn: str, driver: DriverName = "asyncpg") -> AsyncGenerator[Peer]:
    """Start PgQueuer's event loop and end it after the block."""
    peer = Peer(dsn, driver)
    peer._thread.start()
    with anyio.fail_after(LIMIT):
        loop = await anyio.to_thread.run_sync(peer._loop.result, abandon_on_cancel=True)
    try:
        yield peer
    finally:
        loop.call_soon_threadsafe(peer._end.set)
        with anyio.move_on_after(LIMIT, shield=True):
            await anyio.to_thread.run_sync(peer._thread.join, abandon_on_cancel=True)


@asynccontextmanager
async def _connected(dsn: str, driver: DriverName) -> AsyncGenerator[Driver]:
    """PgQueuer's driver on a new connection; on the peer's event loop."""
    if driver == "psycopg":
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True
        ) as psycopg_connection:
            yield PsycopgDriver(psycopg_connection)
        return
    connection = await asyncpg_connect(dsn)
    try:
        yield AsyncpgDriver(connection)
    finally:
        await connection.close()
