"""How statements run on a session, and how they are interrupted; knows the protocol, not SQL."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from psycopg import AsyncConnection, errors as e, pq
from psycopg.rows import AsyncRowFactory, Row

from pgq_trio.postgres.internals import WaitTimeout, capabilities
from pgq_trio.postgres.recovery import CLEANUP_LIMIT, PATIENCE, drain, is_active
from pgq_trio.postgres.waiting import Pace, drive, drive_connecting, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg.abc import RV, PQGen
    from psycopg.pq.abc import PGconn

__all__ = ["InterruptibleConnection"]

logger: logging.Logger = logging.getLogger("pgq_trio.postgres")

_AT_REST: Final = frozenset({pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS})


class InterruptibleConnection(AsyncConnection[Row]):
    """The part of `Connection` that runs psycopg's generators, and gets out of them again.

    What is not psycopg's here is for the blocks and cursors of this package.
    """

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[Row]) -> None:
        super().__init__(pgconn, row_factory)
        # Not `anyio.Lock`, which only its owner may release: a `stream()` or `notifies()` that the
        # caller drops half-way is closed by a task of the event loop.
        self._turns = anyio.Semaphore(1, max_value=1, fast_acquire=True)
        self.lock: Any = cast("Any", self._turns)
        self._pace = Pace()
        self._statements_suspect = False

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

        Raises:
            psycopg.OperationalError: something else held the lock for 5 s (another task, or a
                `stream()` that was not closed); the connection is closed.
        """
        interruption: BaseException | None = None
        try:
            held = await self._acquire_in_time()
        except BaseException as exc:  # noqa: BLE001 - raised at the end
            # What comes through the shield: Ctrl-C, and `cancel()` of an asyncio task.
            interruption = exc
            held = await self._acquire_in_time()
        if not held:
            self.terminate()
            raise interruption or e.OperationalError(
                f"the connection was closed: it was not released within {CLEANUP_LIMIT:g} s"
                " for the cleanup of a block"
            )
        try:
            yield
        finally:
            self.lock.release()
        if interruption is not None:
            raise interruption

    async def _acquire_in_time(self) -> bool:
        with anyio.move_on_after(CLEANUP_LIMIT, shield=True):
            await self.lock.acquire()
            return True
        return False

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
            and self.pgconn.transaction_status in _AT_REST
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

    def terminate(self) -> None:
        """As `close`, without `await`; the connection counts as `broken` if it was open."""
        with suppress(e.Error, RuntimeError):
            # No tick would tell a waiting task that its descriptor is gone. RuntimeError: there is
            # no event loop, hence no waiting task.
            anyio.notify_closing(self.pgconn.socket)
        self.pgconn.finish()


def _close_generator(gen: PQGen[Any]) -> None:
    """End a suspended generator; one that waits again in its `finally` is left as it is."""
    with suppress(Exception):
        gen.close()
