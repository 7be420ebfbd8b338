"""Stores around real ones: they count, and fail, wait or call back where a test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from pgq_trio.abc import Backend, Driver
from pgq_trio.abc.insights import EXPIRE_BATCH, FOLD_BATCH, Step
from pgq_trio.db import InMemoryDriver
from pgq_trio.model.enqueue import new_jobs
from pgq_trio.model.retention import Retention
from pgq_trio.postgres.sql_port import Param, Row, SqlConnection, SqlSession
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.memory_insights import MemoryInsights

#: Called with what is about to be done, or has just been done.
Hook = Callable[[str], Awaitable[None]]


async def nothing(_: str) -> None:
    """The hook that does nothing."""


class WatchedInsights(MemoryInsights):
    """The store in memory, watched.

    Attributes:
        calls: how often each operation was called.
        before: called with the operation's name; may wait or raise.
        after: the same once it has taken effect.
        busy: which operations find another process at the history.
    """

    def __init__(self, real: MemoryInsights) -> None:
        super().__init__(real._state)
        self.calls: Counter[str] = Counter()
        self.before: Hook = nothing
        self.after: Hook = nothing
        self.busy: set[str] = set()

    async def chores(self, retention: Retention | None) -> bool:
        await self._begin("chores")
        there_are = await super().chores(retention)
        await self.after("chores")
        return there_are

    async def fold(self, *, limit: int = FOLD_BATCH) -> Step:
        await self._begin("fold")
        if "fold" in self.busy:
            return Step(0, is_last=True, is_busy=True)
        step = await super().fold(limit=limit)
        await self.after("fold")
        return step

    async def expire(
        self, retention: Retention, *, limit: int = EXPIRE_BATCH, from_start: bool = False
    ) -> Step:
        await self._begin("expire")
        if "expire" in self.busy:
            return Step(0, is_last=False, is_busy=True)
        step = await super().expire(retention, limit=limit, from_start=from_start)
        await self.after("expire")
        return step

    async def _begin(self, operation: str) -> None:
        self.calls[operation] += 1
        await self.before(operation)


class WatchedDriver(Driver):
    """A queue in memory whose insights are watched."""

    def __init__(self, settings: Settings) -> None:
        real = InMemoryDriver().backend(settings)
        assert isinstance(real, StoreBackend)
        assert isinstance(real.insights, MemoryInsights)
        self.insights = WatchedInsights(real.insights)
        self._backend = replace(real, insights=self.insights)

    def backend(self, settings: Settings) -> Backend:
        assert settings == self._backend.settings
        return self._backend


class WatchedSql(SqlConnection):
    """Calls back before and after each statement, and before the end of each transaction."""

    def __init__(self, sql: SqlConnection) -> None:
        self._sql = sql
        self.before: Hook = nothing
        self.after: Hook = nothing

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        return await self._fetch(self._sql, statement, params)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlSession]:
        async with self._sql.transaction() as session:
            yield _Session(self, session)
            await self.before("COMMIT")
        await self.after("COMMIT")

    async def run_script(self, statements: Sequence[str]) -> None:
        await self._sql.run_script(statements)

    def listen(self, *channels: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._sql.listen(*channels)

    async def _fetch(self, sql: SqlSession, statement: str, params: Sequence[Param]) -> list[Row]:
        await self.before(statement)
        rows = await sql.fetch(statement, params)
        await self.after(statement)
        return rows


class _Session(SqlSession):
    def __init__(self, watched: WatchedSql, session: SqlSession) -> None:
        self._watched = watched
        self._session = session

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        return await self._watched._fetch(self._session, statement, params)


async def some_history(backend: Backend, jobs: int) -> None:
    """Enqueue and cancel jobs: two log rows for each."""
    ids = await backend.jobs.enqueue(
        new_jobs(["a"] * jobs, None, 0, None, None, None), on_conflict="raise"
    )
    await backend.jobs.cancel([job_id for job_id in ids if job_id is not None])


async def counted(backend: Backend) -> int:
    """How many log rows the statistics stand for."""
    return sum(row.total_count for row in await backend.insights.throughput(last=None))
