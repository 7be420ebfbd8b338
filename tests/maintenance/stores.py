"""What tests of the housekeeping share: statements that call back, a history, others at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from pgq_trio.abc import Backend
from pgq_trio.abc.insights import Step
from pgq_trio.model.enqueue import new_jobs
from pgq_trio.postgres.sql_port import Param, Row, SqlConnection, SqlSession

#: Called with the statement that is about to be sent, or has just been answered.
Hook = Callable[[str], Awaitable[None]]


async def nothing(_: str) -> None:
    """The hook that does nothing."""


def occupied(patch: pytest.MonkeyPatch, backend: Backend, operation: str) -> None:
    """Have an operation find another process at the history, as it never happens in memory."""

    async def busy(*_: object, **__: object) -> Step:
        await anyio.lowlevel.checkpoint()
        return Step(0, is_last=operation == "fold", is_busy=True)

    patch.setattr(backend.insights, operation, busy)


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
