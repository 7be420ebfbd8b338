"""psycopg's `AsyncConnection` on AnyIO; knows sessions and statements, not pools or jobs."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from psycopg import AsyncConnection, errors as e, pq
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo
from psycopg.rows import AsyncRowFactory, Row, tuple_row

from pgq_trio.postgres.attempts import resolve_attempts
from pgq_trio.postgres.blocks import Pipeline, Transaction
from pgq_trio.postgres.cursors import Cursor, ServerCursor
from pgq_trio.postgres.internals import WaitTimeout, capabilities, timeout_from_conninfo
from pgq_trio.postgres.recovery import CLEANUP_LIMIT, PATIENCE, drain, is_active
from pgq_trio.postgres.waiting import Pace, drive, drive_connecting, is_readable, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Self

    from psycopg import AsyncCursor, AsyncPipeline, AsyncServerCursor, AsyncTransaction
    from psycopg.abc import RV, AdaptContext, ConnDict, ConnParam, PQGen
    from psycopg.pq.abc import PGconn

__all__ = ["Connection"]

logger = logging.getLogger("pgq_trio.postgres")

_IDLE: Final = pq.TransactionStatus.IDLE
_INTRANS: Final = pq.TransactionStatus.INTRANS


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


class Connection(AsyncConnection[Row]):
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
        # Not `anyio.Lock`, which only its owner may release: a `stream()` or `notifies()` that the
        # caller drops half-way is closed by a task of the event loop.
        self._turns = anyio.Semaphore(1, max_value=1, fast_acquire=True)
        self.lock = cast("Any", self._turns)
        self.cursor_factory = cast("type[AsyncCursor[Row]]", Cursor)
        self.server_cursor_factory = cast("type[AsyncServerCursor[Row]]", ServerCursor)
        self._pace = Pace()
        self._last_words = _LastWords()
        self._notice_handlers.append(self._last_words)
        self._statements_suspect = False

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
        async with self.held_for_cleanup():
            await self.recover()
            try:
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

    def terminate(self) -> None:
        """As `close`, without `await`; the connection counts as `broken` if it was open."""
        with suppress(e.Error, RuntimeError):
            # No tick would tell a waiting task that its descriptor is gone. RuntimeError: there is
            # no event loop, hence no waiting task.
            anyio.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

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

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.0,  # noqa: ARG002 - psycopg's signature
        timeout: float | None = None,
    ) -> RV:
        """Run one of psycopg's generators on this session and return its value.

        Every statement of the connection and its cursors comes through here, its lock held.
        `interval` is psycopg's and has no use: nothing here ticks.

        Raises:
            psycopg.errors._WaitTimeout: `timeout` seconds have passed.

        Cancellation: the generator is closed and the session brought to rest, or closed.
        """
        try:
            # Not a checkpoint each time, as it would cost more than a row of a COPY. The lock
            # noticed a cancellation; in a long exchange, this does within `MAX_BUSY_TIME`.
            if self._pace.is_due():
                await self._pace.checkpoint()
            return await wait_for(gen, self.pgconn.socket, self._pace, timeout)
        except Exception:
            _close_generator(gen)
            raise
        except BaseException:
            await self._abandon(gen)
            raise

    async def settle(self, gen: PQGen[RV]) -> RV:
        """As `wait`, for what is better finished than cut off: BEGIN, SAVEPOINT, COMMIT, ROLLBACK.

        Cancellation: before the generator has begun, nothing is sent. Afterwards it runs on for up
        to 5 s, and only then is treated as by `wait`.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        try:
            return await drive(gen, self.pgconn.socket, self._pace)
        except Exception:
            _close_generator(gen)
            raise
        except BaseException:
            try:
                with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
                    await drive(gen, self.pgconn.socket, self._pace)
            except Exception as exc:  # noqa: BLE001 - the interruption is what the caller sees
                logger.debug("error while interrupted on %r: %s", self, exc)
            finally:
                await self._abandon(gen)
            raise

    async def conclude(self, gen: PQGen[RV]) -> RV:
        """As `wait`, for cleanup: shielded, and after 5 s the connection is closed.

        Raises:
            psycopg.OperationalError: it did not end in time.
        """
        try:
            with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
                return await drive(gen, self.pgconn.socket, self._pace)
        except Exception:
            raise
        except BaseException:
            self.terminate()
            raise
        self.terminate()
        raise e.OperationalError(
            f"the connection was closed: no answer to a cleanup within {CLEANUP_LIMIT:g} s"
        )

    @asynccontextmanager
    async def held_for_cleanup(self) -> AsyncGenerator[None]:
        """A block that holds the lock, entered also when cancelled, for cleanup inside.

        Without a cancellation it waits for as long as other tasks use the connection. With one it
        waits for 5 s, and then closes the connection. The cancellation is raised at the end.
        """
        interruption: BaseException | None = None
        try:
            await self.lock.acquire()
        except Exception:
            raise
        except BaseException as exc:
            with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
                await self.lock.acquire()
                interruption = exc
            if interruption is None:
                logger.warning("closing %r, as another task does not release it", self)
                self.terminate()
                raise
        try:
            yield
        finally:
            self.lock.release()
        if interruption is not None:
            raise interruption

    async def recover(self) -> None:
        """Bring the session to rest if the server owes it an answer, or close it; shielded.

        The lock must be held. What was running is cancelled on the server, its answer discarded,
        a COPY ended, a pipeline emptied. Takes up to 5 s, and never raises an `Exception`.
        """
        if self._pipeline is not None:
            self._pipeline.command_queue.clear()
            self._pipeline.result_queue.clear()
        if not is_active(self.pgconn):
            return
        self._statements_suspect = True
        try:
            with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
                await self._cancel_and_drain()
        except Exception as exc:  # noqa: BLE001 - closing is the answer to whatever it is
            logger.warning("closing %r, as its statement could not be cancelled: %s", self, exc)
            self.terminate()
        except BaseException:
            self.terminate()
            raise
        if is_active(self.pgconn):
            logger.warning("closing %r, as the server did not end the statement", self)
            self.terminate()

    async def _cancel_and_drain(self) -> None:
        if self.pgconn.pipeline_status:
            self.pgconn.pipeline_sync()
        for patience in PATIENCE:
            if patience:
                await self._try_cancel()
            with suppress(WaitTimeout):
                await wait_for(drain(self.pgconn), self.pgconn.socket, self._pace, patience)
                return

    async def _abandon(self, gen: PQGen[Any]) -> None:
        """Give up a generator and bring the session to rest."""
        if self._pipeline is not None:
            # Before the generator is closed: psycopg's ends of pipelines fetch what is queued.
            self._statements_suspect = True
            self._pipeline.command_queue.clear()
            self._pipeline.result_queue.clear()
        _close_generator(gen)
        await self.recover()

    def _start_query(self) -> PQGen[None]:
        # After an interruption nobody knows which prepared statements the server has.
        if (
            self._statements_suspect
            and self._pipeline is None
            and self.pgconn.transaction_status in {_IDLE, _INTRANS}
        ):
            self._statements_suspect = False
            if self._prepared.clear():
                yield from self._prepared.maintain_gen(self)
        yield from super()._start_query()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel the statement that runs; over a connection of its own.

        Args:
            timeout: seconds until `CancellationTimeout`; 0 is for ever.

        Raises:
            psycopg.errors.CancellationTimeout: the server did not take the request in time.
            psycopg.OperationalError: it could not be reached.
        """
        if not self._should_cancel():
            return
        with anyio.move_on_after(timeout or None):
            if capabilities.has_cancel_safe():
                await drive_connecting(self._cancel_gen())
            else:
                await anyio.to_thread.run_sync(self.cancel, abandon_on_cancel=True)
            return
        raise e.CancellationTimeout("cancellation timeout expired")

    async def _try_cancel(self, *, timeout: float = CLEANUP_LIMIT) -> None:
        # psycopg's cursors call it in cleanup, hence the shield.
        try:
            with anyio.CancelScope(shield=True):
                await self.cancel_safe(timeout=timeout)
        except Exception as exc:  # noqa: BLE001 - the caller drains, and closes if that fails
            logger.debug("cancel request for %r failed: %s", self, exc)


def _close_generator(gen: PQGen[Any]) -> None:
    """End a suspended generator; one that waits again in its `finally` is left as it is."""
    with suppress(Exception):
        gen.close()
