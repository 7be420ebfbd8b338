"""Processes of a simulated fleet that can be stopped: no task of one makes a step for a while.

So does a handler that blocks its event loop, a host that swaps, a debugger. All processes of a
simulation share one event loop, so it is their tasks and timers that are kept from running: what
would make one go on while its process is stopped is kept, and given to it afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, cast

import trio

from pgq_trio.testing import Backend

__all__ = ["Process", "processes"]

_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class Process:
    """Tasks that run or stand still together.

    Nobody from outside may cancel them while they stand still: let them go on first.

    Attributes:
        is_stopped: whether they stand still now.
    """

    def __init__(self) -> None:
        self.is_stopped: bool = False
        self._kept: list[Callable[[], object]] = []

    def enter(self) -> None:
        """Count the calling task as one of this process, and all that it starts from now on."""
        _PROCESS.set(self)

    def stop(self) -> None:
        """Let none of its tasks make another step."""
        self.is_stopped = True

    def go_on(self) -> None:
        """Let its tasks run again, with all that has come for them meanwhile."""
        self.is_stopped = False
        kept, self._kept = self._kept, []
        for call in kept:
            call()

    def keep(self, call: Callable[[], object]) -> None:
        """Have this called once it goes on."""
        self._kept.append(call)


@contextmanager
def processes(backend: Backend) -> Generator[None, None, None]:
    """Have tasks that start in this block obey their processes."""
    with _on_trio() if backend == "trio" else _on_asyncio():
        yield


@contextmanager
def _on_trio() -> Generator[None, None, None]:
    wraps = _Wraps()
    trio.lowlevel.add_instrument(wraps)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(wraps)


class _Wraps(trio.abc.Instrument):
    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        task.coro = cast("Any", _Steps(task.coro))


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine of a task on Trio, which waits for its process before each step."""

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine
        self._kept: tuple[Any, ...] = ()

    def send(self, value: Any) -> Any:
        process = _PROCESS.get()
        if process is not None and process.is_stopped:
            self._kept = self._kept or (value,)
            task = trio.lowlevel.current_task()
            process.keep(lambda: trio.lowlevel.reschedule(task))
            # A cancellation that comes now waits for the next checkpoint.
            return _wait().send(None)
        kept, self._kept = self._kept, ()
        return self._coroutine.send(kept[0] if kept else value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return cast("Generator[Any, Any, Any]", self._coroutine.__await__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # cr_frame and its like


async def _wait() -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


@contextmanager
def _on_asyncio() -> Generator[None, None, None]:
    loop: Any = asyncio.get_running_loop()
    soon, at = loop.call_soon, loop.call_at

    def call_soon(
        callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        where = context or copy_context()
        process = where.get(_PROCESS)
        if process is None or not process.is_stopped:
            return cast("asyncio.Handle", soon(callback, *args, context=where))
        handle = asyncio.Handle(callback, args, loop, where)
        process.keep(lambda: handle.cancelled() or soon(callback, *args, context=where))
        return handle

    def call_at(
        when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        where = context or copy_context()

        def fire() -> None:
            process = _PROCESS.get()
            if process is None or not process.is_stopped:
                callback(*args)
            else:
                process.keep(lambda: timer.cancelled() or soon(callback, *args, context=where))

        timer: asyncio.TimerHandle = at(when, fire, context=where)
        return timer

    loop.call_soon, loop.call_at = call_soon, call_at
    try:
        yield
    finally:
        del loop.call_soon, loop.call_at
