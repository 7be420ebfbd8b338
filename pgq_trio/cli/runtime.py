"""Running a command's async part on either backend, and what signals mean meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import click

from pgq_trio.concurrency.errors import raise_as_itself

R = TypeVar("R")
C = TypeVar("C", bound=Callable[..., Any])

Backend: TypeAlias = Literal["trio", "asyncio"]


class Interrupts:
    """What SIGINT and SIGTERM do: they cancel the command, unless a block has taken them over.

    One receiver for the whole command: `run`'s own would, on asyncio, take this one's handlers
    away when it ends, and the signals would be deadly while resources close.

    Attributes:
        scope: the command's, which a signal cancels.
        signal: the last one; None before the first.
    """

    def __init__(self) -> None:
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.signal: signal.Signals | None = None
        self._handler: Callable[[], None] | None = None

    @contextmanager
    def taken_by(self, handler: Callable[[], None]) -> Generator[None]:
        """Have signals call a function during a block, on the event loop's thread."""
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None

    async def watch(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Answer signals until cancelled."""
        async for number in signals:
            self.signal = number
            if self._handler is not None:
                self._handler()
            else:
                self.scope.cancel()


def execute(command: Callable[[Interrupts], Awaitable[R]], *, backend: Backend = "trio") -> R:
    """Run the async part of a command and return what it returns.

    Raises:
        click.exceptions.Exit: a signal has ended it; the code is 128 + the signal's number.
        Whatever the command raises, as itself.
    """
    return anyio.run(_watched, command, backend=backend)


async def _watched(command: Callable[[Interrupts], Awaitable[R]]) -> R:
    await anyio.lowlevel.checkpoint()
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        return await command(interrupts)  # only the main thread may receive signals
    results: list[R] = []
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(interrupts.watch, signals)
                with interrupts.scope:
                    results.append(await command(interrupts))
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_as_itself(group)
    if results:
        return results[0]
    raise click.exceptions.Exit(128 + (interrupts.signal or signal.SIGINT))


def backend_option(command: C) -> C:
    """Give a command the option --backend."""
    return click.option(
        "--backend",
        type=click.Choice(["trio", "asyncio"]),
        default="trio",
        show_default=True,
        help="The event loop.",
    )(command)
