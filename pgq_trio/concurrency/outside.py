"""Cancellation from outside, turned into a request that the inside answers in its own order.

With plain nesting, cancelling a caller reaches everything below at once: a resource's own
background tasks die before the jobs that need them have cleaned up. Inside of `deaf` nothing
is reached directly. A small watcher feels the cancellation instead and cancels just the scopes
it was given; whoever opened `deaf` closes the rest when its turn comes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from pgq_trio.concurrency.errors import raise_as_itself


class Outside:
    """What is known of the world around a `deaf` block."""

    def __init__(self) -> None:
        self.cancelled: bool = False
        self._scopes: list[anyio.CancelScope] = []

    def cancels(self, scope: anyio.CancelScope) -> None:
        """Have this scope cancelled when a cancellation comes from outside."""
        self._scopes.append(scope)
        if self.cancelled:
            scope.cancel()

    def spares(self, scope: anyio.CancelScope) -> None:
        """Take back `cancels`: what the scope holds now has to be ended in order."""
        self._scopes.remove(scope)

    async def watch(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled = True
            for scope in self._scopes:
                scope.cancel()


@asynccontextmanager
async def deaf() -> AsyncGenerator[Outside, None]:
    """Run a block that cancellation from outside reaches only through `Outside.cancels`.

    The block must end by itself soon after its scopes were cancelled: every wait in it that
    these scopes do not cover needs a deadline. When the block is over, a cancellation that came
    meanwhile is raised. An exception of the block comes out as itself.
    """
    outside = Outside()
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as watcher:
            with anyio.CancelScope(shield=True):
                await watcher.start(outside.watch, name="watch for cancellation from outside")
                try:
                    yield outside
                except Exception as exc:  # noqa: BLE001 - kept out of the group, raised below
                    error = exc
            watcher.cancel_scope.cancel()
    except BaseException as exc:  # noqa: BLE001, ASYNC103 - see below
        # On Trio the cancellation from outside is raised here. An error of the block is worth
        # more: it would be lost, and the cancellation is raised again at the next checkpoint.
        if error is None or not isinstance(exc, anyio.get_cancelled_exc_class()):
            raise_as_itself(exc)
    if error is not None:
        raise_as_itself(error, own=error)
    await anyio.lowlevel.checkpoint_if_cancelled()
