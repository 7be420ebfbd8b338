"""psycopg's `AsyncConnection` on AnyIO; knows sessions and statements, not pools or jobs."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

import anyio
from psycopg import errors as e, pq
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo
from psycopg.rows import AsyncRowFactory, Row, tuple_row

from pgq_trio.postgres.attempts import resolve_attempts
from pgq_trio.postgres.blocks import Pipeline, Transaction
from pgq_trio.postgres.cursors import Cursor, ServerCursor
from pgq_trio.postgres.internals import timeout_from_conninfo
from pgq_trio.postgres.interruptible import InterruptibleConnection
from pgq_trio.postgres.waiting import drive_connecting, is_readable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Self

    from psycopg import AsyncCursor, AsyncPipeline, AsyncServerCursor, AsyncTransaction
    from psycopg.abc import AdaptContext, ConnDict, ConnParam
    from psycopg.pq.abc import PGconn

__all__ = ["Connection"]

logger: logging.Logger = logging.getLogger("pgq_trio.postgres")

_IDLE: Final = pq.TransactionStatus.IDLE


class _LastWords:
    """Notes that the server has announced the end of the session.

    An object of its own, because the connection keeps its handlers: a bound method would be a
    reference cycle.
    """

    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard = False

    def __call__(self, diagnostic: e.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized in {"FATAL", "PANIC"}:
            self.heard = True


class Connection(InterruptibleConnection[Row]):
    """A session with a PostgreSQL server, on Trio and on asyncio.

    All of psycopg's `AsyncConnection` works: statements, COPY, pipelines, transactions, server-side
    cursors, notifications, two-phase commit. Several tasks may share a connection; their statements
    then run one after another. (`psycopg.copy.AsyncQueuedLibpqWriter` alone needs asyncio.)

    Cancellation: a statement that is cancelled, or interrupted by Ctrl-C, is cancelled on the
    server as well, and the connection can be used again, in whatever transaction state that leaves
    it. Where the server does not answer within a few seconds, the connection is closed instead. It
    is never left waiting for an answer. COMMIT, ROLLBACK, BEGIN and SAVEPOINT, once sent, are
    awaited for up to 5 s before that, so that a cancelled commit has either happened in full or
    rolled back; `Cancelled` is raised in both cases.
    """

    def __init__(
        self,
        pgconn: PGconn,
        row_factory: AsyncRowFactory[Row] = cast("AsyncRowFactory[Row]", tuple_row),  # noqa: B008
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory: type[AsyncCursor[Row]] = cast("type[AsyncCursor[Row]]", Cursor)
        self.server_cursor_factory: type[AsyncServerCursor[Row]] = cast(
            "type[AsyncServerCursor[Row]]", ServerCursor
        )
        self._last_words = _LastWords()
        self._notice_handlers.append(self._last_words)

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Open a session; see `pgq_trio.postgres.connect`."""
        params = await cls._get_connection_params(conninfo, **kwargs)
        timeout = timeout_from_conninfo(params)
        self = await cls._try_each(await resolve_attempts(params), timeout)
        self._autocommit = autocommit
        self.prepare_threshold = prepare_threshold
        if row_factory is not None:
            self.row_factory = row_factory
        if cursor_factory is not None:
            self.cursor_factory = cursor_factory
        if context is not None:
            self._adapters = AdaptersMap(context.adapters)
        return self

    @classmethod
    async def _try_each(cls, attempts: list[ConnDict], timeout: float) -> Self:
        failures: list[tuple[str, e.Error]] = []
        for attempt in attempts:
            where = ", ".join(
                f"{key} {attempt[key]!r}" for key in ("host", "hostaddr", "port") if key in attempt
            )
            try:
                return await cls._try_one(make_conninfo("", **attempt), timeout)
            except e.Error as exc:
                logger.debug("connection attempt to %s failed: %s", where, exc)
                failures.append((where, exc))
        last = failures[-1][1]
        if len(failures) == 1:
            raise last
        lines = [f"- {where}: {failure}" for where, failure in failures]
        message = "\n".join([f"{last}", "None of the servers could be used:", *lines])
        raise type(last)(message, pgconn=last.pgconn)

    @classmethod
    async def _try_one(cls, conninfo: str, timeout: float) -> Self:
        with anyio.move_on_after(timeout):
            return await drive_connecting(cls._connect_gen(conninfo))
        raise e.ConnectionTimeout("connection timeout expired")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Commit, or roll back on an exception, then close."""
        try:
            await self.end_block(exc_val)
        finally:
            self._closed = True
            self.terminate()

    async def end_block(self, error: BaseException | None) -> None:
        """End the open transaction as leaving a block does; no traffic where there is none.

        Commits if `error` is None, rolls back otherwise. An error of the rollback is logged, and
        the connection closed, so that it does not hide `error`.

        Cancellation: a commit that was not sent yet becomes a rollback. The rollback is shielded
        for 5 s, after which the connection is closed.
        """
        if self.closed or (self.pgconn.transaction_status == _IDLE and self._pipeline is None):
            return
        if error is None:
            try:
                await self.commit()
            except Exception:
                raise
            except BaseException:
                await self._roll_back()
                raise
        else:
            await self._roll_back()

    async def _roll_back(self) -> None:
        """Roll back whatever is open; close the connection if that fails."""
        if self.closed:
            return
        try:
            async with self.held_for_cleanup():
                await self.recover()
                if self.pgconn.transaction_status != _IDLE:
                    await self.conclude(self._rollback_gen())
        except Exception as exc:  # noqa: BLE001 - the error that ends the block is what counts
            logger.warning("closing %r, as its rollback failed: %s", self, exc)
            self.terminate()

    async def close(self) -> None:
        """Close the session; what other tasks wait for on it raises `OperationalError`.

        The server is told with a Terminate message. There is no checkpoint, so it is safe in
        cleanup; an open transaction is rolled back by the server.
        """
        self._closed = True
        self.terminate()

    def probe(self) -> bool:
        """Whether the session is still there, as far as this end of it knows; never waits.

        Reads what has arrived on the socket, so call it only while no statement runs.
        """
        try:
            for _ in range(8):
                if self.closed or not is_readable(self.pgconn.socket):
                    break
                self.pgconn.consume_input()
                self.pgconn.is_busy()  # has libpq parse what was read, the server's last words too
        except e.Error:
            return False
        return not self.closed and not self._last_words.heard

    def is_at_rest(self) -> bool:
        """Whether it is open, and nothing is under way: no transaction, pipeline or statement."""
        return (
            self.pgconn.transaction_status == _IDLE
            and self._pipeline is None
            and self._turns.value == 1
        )

    async def commit(self) -> None:
        """Commit the open transaction, if any.

        Cancellation: nothing was sent, or the answer has been awaited (see the class).
        """
        async with self.lock:
            await self.settle(self._commit_gen())

    async def rollback(self) -> None:
        """Roll back the open transaction, if any.

        Cancellation: as for `commit`. In cleanup, call it in a shielded scope with a deadline.
        """
        async with self.lock:
            await self.settle(self._rollback_gen())

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncGenerator[AsyncTransaction]:
        """A block that commits when left normally and rolls back otherwise; nested, a savepoint.

        Args:
            savepoint_name: the savepoint's name; one is made up if it is None.
            force_rollback: roll back also when the block is left normally.

        Cancellation: inside the block it rolls back, shielded for up to 5 s, after which the
        connection is closed.
        """
        transaction = Transaction(self, savepoint_name, force_rollback)
        if self._pipeline is None:
            async with transaction:
                yield transaction
        else:
            async with self.pipeline(), transaction, self.pipeline():
                yield transaction

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[AsyncPipeline]:
        """A block in which statements are sent without waiting for the answer to each.

        Cancellation: statements that were not sent are dropped, the running one is cancelled on
        the server, and the connection leaves pipeline mode.
        """
        async with self.lock:
            self._check_connection_ok()
            if (pipeline := cast("Pipeline | None", self._pipeline)) is None:
                self._pipeline = pipeline = Pipeline(self)
        try:
            async with pipeline:
                yield pipeline
        finally:
            if pipeline.level == 0:
                self._pipeline = None

    @asynccontextmanager
    async def _pipeline_nolock(self) -> AsyncGenerator[AsyncPipeline]:
        """The pipeline of `executemany`, which holds the lock already."""
        self._pipeline = pipeline = Pipeline(self, no_lock=True)
        try:
            async with pipeline:
                yield pipeline
        finally:
            self._pipeline = None
