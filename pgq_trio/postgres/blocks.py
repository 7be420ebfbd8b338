"""Transaction and pipeline blocks that leave a usable connection when interrupted.

They know the protocol's states, not what runs inside them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from psycopg import AsyncPipeline, AsyncTransaction, errors as e, pq

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from psycopg.abc import PQGen

    from pgq_trio.postgres.interruptible import InterruptibleConnection

__all__ = ["Pipeline", "Transaction"]

logger: logging.Logger = logging.getLogger("pgq_trio.postgres")


def is_interruption(exc: BaseException | None) -> bool:
    """Whether `exc` is a cancellation, Ctrl-C, the end of a generator or the interpreter."""
    return exc is not None and not isinstance(exc, Exception)


class Transaction(AsyncTransaction):
    """psycopg's transaction block; see `Connection.transaction`."""

    def __init__(
        self,
        connection: InterruptibleConnection[Any],
        savepoint_name: str | None = None,
        force_rollback: bool = False,
    ) -> None:
        super().__init__(connection, savepoint_name, force_rollback)
        self._owner = connection

    async def __aenter__(self) -> Self:
        async with self._owner.lock:
            self._check_enter()
            try:
                await self._owner.settle(self._enter_gen())
            except BaseException as exc:
                # `__aexit__` will not be called. Still "not started" means that nothing was sent.
                if self.status is self.Status.ACTIVE:
                    with suppress(e.OperationalError):
                        await self._undo(exc)
                raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        if exc_val is None and not self.force_rollback and self._is_open():
            try:
                async with self._owner.lock:
                    return await self._owner.settle(self._leave_gen(None))
            except Exception:
                raise
            except BaseException as exc:
                if self.status is self.Status.ACTIVE:  # COMMIT was not sent
                    await self._roll_back(exc)
                raise
        return await self._roll_back(exc_val)

    async def _roll_back(self, exc: BaseException | None) -> bool:
        try:
            if self._is_open():
                async with self._owner.held_for_cleanup():
                    return await self._undo(exc)
        except e.OperationalError as error:
            logger.warning("error ignored in rollback of %r: %s", self, error)
        self.status = self.Status.FAILED
        return False

    async def _undo(self, exc: BaseException | None) -> bool:
        """Roll back, the lock held; closes the connection if that fails."""
        await self._owner.recover()
        return await self._owner.conclude(self._leave_gen(exc))

    def _leave_gen(self, exc: BaseException | None) -> PQGen[bool]:
        swallow = yield from self._exit_gen(None if exc is None else type(exc), exc, None)
        if (pipeline := self._owner._pipeline) is not None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            # Otherwise a pipeline that is cancelled next would drop the COMMIT or ROLLBACK.
            yield from pipeline._sync_gen()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return swallow

    def _is_open(self) -> bool:
        return self.pgconn.status == pq.ConnStatus.OK


class Pipeline(AsyncPipeline):
    """psycopg's pipeline block; see `Connection.pipeline`."""

    def __init__(self, connection: InterruptibleConnection[Any], no_lock: bool = False) -> None:
        super().__init__(connection, no_lock)
        self._owner = connection
        self._no_lock = no_lock

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        try:
            if is_interruption(exc_val):
                await self._abort()
            else:
                await self._finish(exc_val)
        finally:
            self._exit(exc_val)

    async def _finish(self, exc: BaseException | None) -> None:
        try:
            async with self._lock:
                await self._owner.wait(self._exit_gen())
        except Exception as error:
            if exc is None:
                raise
            logger.warning("error ignored terminating %r: %s", self, error)
        except BaseException:
            await self._abort()
            raise

    async def _abort(self) -> None:
        """Drop what was not sent, cancel what runs, and read the answers that are due."""
        if self._no_lock:
            await self._owner.recover()
        else:
            # What fails has closed the connection; the interruption goes on.
            with suppress(e.OperationalError):
                async with self._owner.held_for_cleanup():
                    await self._owner.recover()
