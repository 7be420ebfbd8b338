"""Running a function in another task group as if it were called here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from pgq_trio.concurrency.errors import raise_as_itself


@asynccontextmanager
async def open_own_group() -> AsyncGenerator[TaskGroup, None]:
    """Open a task group out of which an exception of the block comes as itself."""
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except Exception as exc:  # noqa: BLE001 - kept out of the group, raised below
                error = exc
    except BaseExceptionGroup as group:
        raise_as_itself(group)
    if error is not None:
        raise_as_itself(error, own=error)


async def run_in(
    tasks: TaskGroup,
    function: Callable[[Callable[[], None]], Awaitable[None]],
    *,
    name: str,
    started: Callable[[], None],
) -> bool:
    """Run `function(ready)` in a task of another group and wait for it here.

    `started` is called in this task once the function has called `ready`. The function's
    exception is raised here and not in the group. Cancelling the caller cancels the function,
    which may take its time to end: its own cleanup has to be bounded.

    Returns whether the function returned; False: the group was cancelled under it.
    """
    ready, done = anyio.Event(), anyio.Event()
    scope = anyio.CancelScope()
    errors: list[Exception] = []
    is_ready = returned = False

    def on_ready() -> None:
        nonlocal is_ready
        is_ready = True
        ready.set()

    async def host() -> None:
        nonlocal returned
        try:
            with scope:
                await function(on_ready)
                returned = True
        except Exception as exc:  # noqa: BLE001 - raised below, in the task that asked for it
            errors.append(exc)
        finally:
            ready.set()
            done.set()

    tasks.start_soon(host, name=name)
    try:
        await ready.wait()
        if is_ready:
            started()
        await done.wait()
    except BaseException:
        scope.cancel()
        # No deadline of its own: what runs there bounds its cleanup, and leaving it behind
        # would break the promise that nothing outlives its caller.
        with anyio.CancelScope(shield=True):
            await done.wait()
        if errors:
            raise errors[0] from None  # noqa: ASYNC104 - an error in its cleanup is worth more
        raise
    if errors:
        raise errors[0]
    return returned
