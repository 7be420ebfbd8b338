"""Faults between the stores and PostgreSQL: the pool, cancelled statements, lost connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pgq_trio.errors import ConnectionLost
from pgq_trio.postgres.interruptible import InterruptibleConnection
from pgq_trio.postgres.pool import ConnectionPool
from pgq_trio.store import postgres_sql
from tests.property.mutants import mutant, replace
from tests.property.mutants.agreement import rewrite

_POOL = "test_postgres_pool.py::test_whole_and_fair"
_CANCELLED = "test_postgres_operations.py::test_cancelled_at_each_step"
_KILLED = "test_postgres_worker.py::test_killed_at_each_operation"
_CUT = "test_postgres_operations.py::test_cut_at_each_message"


@mutant("a connection that was given to somebody just cancelled is forgotten", _POOL)
def pool_forgets_the_cancelled() -> None:
    original = ConnectionPool._give_back

    def give_back(self: Any, grant: Any) -> None:
        if grant == "slot":
            original(self, grant)

    replace(ConnectionPool, "_give_back", give_back)


@mutant("a connection that could not be opened is counted for ever", _POOL)
def pool_counts_failures() -> None:
    original = ConnectionPool._give_back

    def give_back(self: Any, grant: Any) -> None:
        if grant != "slot":
            original(self, grant)

    replace(ConnectionPool, "_give_back", give_back)


@mutant("who came last is served first", _POOL)
def pool_serves_the_last() -> None:
    def dispatch(self: Any) -> None:
        while self._waiters and (grant := self._grant()) is not None:
            waiter = self._waiters.pop()
            waiter.grant = grant
            waiter.ready.set()

    replace(ConnectionPool, "_dispatch", dispatch)


@mutant("a connection that comes back wakes nobody", _POOL)
def pool_wakes_nobody() -> None:
    replace(ConnectionPool, "_dispatch", lambda _self: None)


@mutant("a pool opens one connection too many", _POOL)
def pool_too_large() -> None:
    original = ConnectionPool._grant

    def grant(self: Any) -> Any:
        self.max_size += 1
        try:
            return original(self)
        finally:
            self.max_size -= 1

    replace(ConnectionPool, "_grant", grant)


@mutant("the answer to a cancelled statement is left unread", _CANCELLED)
def answer_left_unread() -> None:
    async def recover(self: Any) -> None:
        """Leave the session as it is."""

    replace(InterruptibleConnection, "recover", recover)


@mutant("a statement that was cancelled has its connection closed", _CANCELLED)
def cancelled_closes() -> None:
    async def recover(self: Any) -> None:
        self.terminate()

    replace(InterruptibleConnection, "recover", recover)


@mutant("two statements that belong together are two transactions", _CANCELLED)
def no_transaction() -> None:
    @asynccontextmanager
    async def block(_: Any) -> AsyncGenerator[None]:
        yield

    replace(postgres_sql, "_block", block)


@mutant("a statement without an answer is sent once more", _CUT)
def sent_once_more() -> None:
    original = postgres_sql._PsycopgSql.fetch

    async def fetch(self: Any, *args: Any) -> Any:
        try:
            return await original(self, *args)
        except ConnectionLost:
            return await original(self, *args)

    replace(postgres_sql._PsycopgSql, "fetch", fetch)


@mutant("a lost connection stays in the pool", _CUT)
def dead_connection_kept() -> None:
    from pgq_trio.postgres.connection import Connection

    replace(Connection, "probe", lambda _self: True)
    replace(Connection, "is_at_rest", lambda _self: True)


@mutant("a job is taken over from a dead worker as if it had not begun", _KILLED)
def rescue_is_no_attempt() -> None:
    rewrite("claim", ("attempts = job.attempts + (job.status = 'picked')::int,", ""))


@mutant("who dies with a job takes it along", _KILLED)
def nobody_is_rescued() -> None:
    rewrite("claim", ("q.status = 'picked'\n      AND q.heartbeat <", "false AND q.heartbeat <"))
