"""Worker threads in a simulation: refused, or run at once as one step; it knows no event loop."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, get_args

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.testing.replaying import code_of
from pgq_trio.testing.simulation import Simulation, Threads

__all__ = ["replaced_here", "run_sync_of", "threads_as"]

T = TypeVar("T")

_LOCK = threading.Lock()

#: What stands for a function in which thread, and the function, by its module and name.
_REPLACED: dict[tuple[int, str], tuple[dict[int, Callable[..., Any]], Callable[..., Any]]] = {}


@contextmanager
def replaced_here(module: object, name: str, replacement: Callable[..., Any]) -> Generator[None]:
    """Have another function stand for one of a module, in this thread only, for a block.

    Blocks of several threads may end in any order: the last of them puts the function back.
    """
    key, here = (id(module), name), threading.get_ident()
    with _LOCK:
        if key not in _REPLACED:
            _REPLACED[key] = {}, getattr(module, name)
            setattr(module, name, _by_thread(*_REPLACED[key]))
        by_thread, original = _REPLACED[key]
        outer = by_thread.get(here)
        by_thread[here] = replacement
    try:
        yield
    finally:
        with _LOCK:
            if outer is None:
                del by_thread[here]
            else:
                by_thread[here] = outer
            if not by_thread:
                setattr(module, name, original)
                del _REPLACED[key]


def _by_thread(
    by_thread: dict[int, Callable[..., Any]], original: Callable[..., Any]
) -> Callable[..., Any]:
    @wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        return by_thread.get(threading.get_ident(), original)(*args, **kwargs)

    return choose


@contextmanager
def threads_as(simulation: Simulation[Any]) -> Generator[None]:
    """Decide what `anyio.to_thread.run_sync` does for the length of a block.

    Raises:
        ValueError: an unknown choice.
    """
    if simulation.threads not in get_args(Threads):
        raise ValueError(f"threads is 'refuse' or 'inline', got {simulation.threads!r}")
    with replaced_here(anyio.to_thread, "run_sync", run_sync_of(simulation)):
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
