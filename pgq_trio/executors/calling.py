"""Calling a handler, on the event loop or in a worker thread; knows no job.

What a handler returns is ignored, except for a coroutine that nobody awaited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.model.handlers import describe


async def call_here(func: Callable[..., object], *args: object) -> None:
    result = func(*args)
    if inspect.isawaitable(result):
        result = await result
    else:  # a plain wrapper around an `async def` that chose not to call it
        await anyio.lowlevel.checkpoint()
    if result is not None and inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"the handler {describe(func)} returned a coroutine that it never awaited, so its "
            "work was not done: `await` the call, do not return it"
        )


async def call_in_thread(
    func: Callable[..., object], *args: object, limiter: anyio.CapacityLimiter | None
) -> None:
    call = partial(call_sync, func, *args)
    await anyio.to_thread.run_sync(call, abandon_on_cancel=False, limiter=limiter)


def call_sync(func: Callable[..., object], *args: object) -> None:
    result = func(*args)
    if result is None or not inspect.isawaitable(result):
        return
    kind = "a coroutine" if inspect.iscoroutine(result) else f"an awaitable {type(result).__name__}"
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError(
        f"the handler {describe(func)} is a plain `def` and returned {kind}, so its work was not "
        "done: make it an `async def` and `await` the call there, or call "
        "`anyio.from_thread.run(async_function, ...)` in it"
    )
