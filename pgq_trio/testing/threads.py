"""Worker threads in a simulation: refused, or run at once as one step; it knows no event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args
from unittest.mock import patch

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.testing.replaying import code_of
from pgq_trio.testing.simulation import Simulation, Threads

__all__ = ["run_sync_of", "threads_as"]

T = TypeVar("T")


@contextmanager
def threads_as(simulation: Simulation[Any]) -> Generator[None]:
    """Decide what `anyio.to_thread.run_sync` does for the length of a block.

    Raises:
        ValueError: an unknown choice.
    """
    if simulation.threads not in get_args(Threads):
        raise ValueError(f"threads is 'refuse' or 'inline', got {simulation.threads!r}")
    with patch.object(anyio.to_thread, "run_sync", run_sync_of(simulation)):
        yield


def run_sync_of(simulation: Simulation[Any]) -> Callable[..., Awaitable[Any]]:
    """Return what stands for `run_sync` of AnyIO and of Trio in a run."""

    async def refuse(func: Callable[..., T], *_args: object, **_options: object) -> T:
        error = simulation.refuse_thread(code_of(func, "a function"))
        await anyio.lowlevel.checkpoint()
        raise error

    async def inline(func: Callable[..., T], *args: Any, **_options: object) -> T:
        await anyio.lowlevel.checkpoint()
        result = func(*args)
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return result

    return refuse if simulation.threads == "refuse" else inline
