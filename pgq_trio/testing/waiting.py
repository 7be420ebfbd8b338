"""Where a task waits, told for people: the innermost line that is theirs; knows no event loop."""

from __future__ import annotations

import gc
import linecache
import sys
from collections.abc import Iterator
from pathlib import PurePath
from types import CodeType, FrameType

from pgq_trio.concurrency.shutdown import Shutdown

__all__ = ["is_shutdown_watch", "place_of"]

#: Packages whose lines say how a task waits, not what for.
_PLUMBING = sys.stdlib_module_names | {"anyio", "asyncio", "exceptiongroup", "outcome", "trio"}

_LONGEST_LINE = 60


def place_of(coroutine: object) -> str:
    """Return where a suspended coroutine waits, such as "`await queue.get()` (pipeline.py:31)".

    That is the innermost line of the user's own code; where there is none, of this package's; and
    where there is none of that either, the function that the task was started with.
    """
    frames = list(_frames(coroutine))
    for is_told in (_is_users, _is_ours):
        for frame in reversed(frames):
            if is_told(frame):
                return _line_of(frame)
    # AnyIO starts each task with a function of its own.
    started = [frame for frame in frames if _module(frame) != "anyio._core._tasks"]
    if started:
        return _function(started[0].f_code)
    code = getattr(coroutine, "cr_code", None)
    return _function(code) if isinstance(code, CodeType) else "a place that nobody can see"


def is_shutdown_watch(coroutine: object) -> bool:
    """Whether a suspended coroutine waits for an application's request to shut down."""
    frames = [frame for frame in _frames(coroutine) if _is_ours(frame) or _is_users(frame)]
    code = frames[-1].f_code if frames else None
    return code is Shutdown.watch.__code__


def _frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits, from the outside in."""
    while awaited is not None:
        for frame, inner in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom")):
            if hasattr(awaited, frame):
                yield from _one_frame(getattr(awaited, frame))
                awaited = getattr(awaited, inner)
                break
        else:
            # `asend` and its like do not say which generator they belong to.
            generators = [one for one in gc.get_referents(awaited) if hasattr(one, "ag_frame")]
            if not generators:
                return
            yield from _one_frame(generators[0].ag_frame)
            awaited = generators[0].ag_await


def _one_frame(frame: FrameType | None) -> Iterator[FrameType]:
    if frame is not None:
        yield frame


def _is_users(frame: FrameType) -> bool:
    installed = "site-packages" in PurePath(frame.f_code.co_filename).parts
    return not installed and _package(frame) not in _PLUMBING | {"pgq_trio"}


def _is_ours(frame: FrameType) -> bool:
    return _package(frame) == "pgq_trio" and not _module(frame).startswith("pgq_trio.testing.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


def _line_of(frame: FrameType) -> str:
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - 3]}..."
    what = f"`{line.removesuffix(':')}`" if line else code.co_qualname
    return f"{what} ({PurePath(code.co_filename).name}:{frame.f_lineno})"


def _function(code: CodeType) -> str:
    return f"{code.co_qualname} ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
