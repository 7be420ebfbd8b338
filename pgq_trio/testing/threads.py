"""Worker threads in a simulation: refused, or run at once as one step; it knows no event loop."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar, get_args
from unittest.mock import patch

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.testing.simulation import Simulation, ThreadRefused

__all__ = ["Threads", "threads_as"]

T = TypeVar("T")

#: "refuse" gives the run up with `ThreadRefused` when a thread is asked for. "inline" calls the
#: function at once on the event loop's thread, as one step that nothing can come between; it must
#: not use `anyio.from_thread`, which needs a thread.
Threads: TypeAlias = Literal["refuse", "inline"]


@contextmanager
def threads_as(choice: Threads, simulation: Simulation[Any]) -> Generator[None]:
    """Decide what `anyio.to_thread.run_sync` does for the length of a block.

    Raises:
        ValueError: an unknown choice.
    """
    if choice not in get_args(Threads):
        raise ValueError(f"threads is 'refuse' or 'inline', got {choice!r}")

    async def refuse(func: Callable[..., T], *_args: object, **_options: object) -> T:
        error = ThreadRefused(
            f"{getattr(func, '__qualname__', func)} is to run in a thread, and nobody can order "
            "the steps of threads: make it async, or pass threads='inline' to have it called at "
            "once, as one step"
        )
        simulation.give_up(error)
        await anyio.lowlevel.checkpoint()
        raise error

    async def inline(func: Callable[..., T], *args: Any, **_options: object) -> T:
        await anyio.lowlevel.checkpoint()
        result = func(*args)
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return result

    with patch.object(anyio.to_thread, "run_sync", refuse if choice == "refuse" else inline):
        yield
