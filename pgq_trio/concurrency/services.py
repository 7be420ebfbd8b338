"""Service groups: background tasks that live as long as the block which needs them, and longer
than anything that block starts.

Trio issue 1521 and `tricycle.open_service_nursery` are the prior art. A plain task group cancels
heartbeat and listener together with the jobs that still need them to end cleanly.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pgq_trio.concurrency.errors import raise_as_itself
from pgq_trio.concurrency.outside import deaf


class Service(Protocol):
    """A long-running coroutine function that says when it really serves."""

    def __call__(self, *, task_status: TaskStatus[None]) -> Coroutine[object, object, None]:
        """Serve until cancelled; call `task_status.started()` once others may rely on it."""
        ...


class ServiceGroup:
    """The services of one block."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    async def start(self, service: Service, *, name: str) -> None:
        """Start a service and wait until it serves; what keeps it from starting is raised here."""
        await self._tasks.start(service, name=name)


@asynccontextmanager
async def open_service_group() -> AsyncGenerator[ServiceGroup, None]:
    """Open a group whose services stop last.

    Cancellation from outside reaches the block but not the services; they are cancelled once the
    block is over, its shielded cleanup included. A service that fails cancels the block, and its
    error comes out as itself.
    """
    error: Exception | None = None
    async with deaf() as outside:
        try:
            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope() as block:  # noqa: ASYNC100 - the caller's block is inside
                    outside.cancels(block)
                    try:
                        yield ServiceGroup(tasks)
                    except Exception as exc:  # noqa: BLE001 - kept out of the group, raised below
                        error = exc
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if error is None:
                raise_as_itself(group)
            raise BaseExceptionGroup("the block and its services failed", [error, group]) from None
        if error is not None:
            raise_as_itself(error, own=error)
