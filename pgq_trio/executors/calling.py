"""Calling a handler, on the event loop or in a worker thread; knows no job.

What a handler returns is ignored, except for a coroutine that nobody awaited. `sys.exit()` in a
handler is meant for a program of its own: it is a failure of the job, and ends nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.concurrency.errors import as_failure
from pgq_trio.model.handlers import describe


async def call_here(func: Callable[..., object], *args: object) -> None:
    try:
        await _call_here(func, *args)
    except (SystemExit, BaseExceptionGroup) as exc:
        failure = as_failure(exc, anyio.get_cancelled_exc_class())
        if failure is None or isinstance(exc, Exception):
            raise
        raise failure from exc


async def _call_here(func: Callable[..., object], *args: object) -> None:
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
    try:
        result = func(*args)
    except (SystemExit, GeneratorExit, KeyboardInterrupt) as exc:
        # All of them the handler's own: Ctrl-C is raised in the main thread only.
        raise RuntimeError(
            f"the handler {describe(func)} raised {type(exc).__name__}: {exc}"
        ) from exc
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
