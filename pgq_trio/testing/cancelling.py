"""Cancelling an operation with real I/O at each of its steps; it knows no simulation.

It runs on the event loop of the caller, whose clock is real, so that sockets, databases and
threads are what they are. Steps are counted by an awaitable that passes on whatever the operation
yields to its event loop, which works alike on Trio and on asyncio.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, get_args

import anyio

from pgq_trio.testing.simulation import Moment

__all__ = ["cancel_at_each_step"]

#: Runs in a row that end before the step, after which no run is believed to have more: with real
#: I/O one takes a step less than another, as the other side is fast or slow.
_SHORTER_RUNS = 3


async def cancel_at_each_step(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], Awaitable[object]] | None = None,
    *,
    moments: Sequence[Moment] = ("before", "in flight"),
    limit: int = 1000,
) -> dict[Moment, int]:
    """Run an operation again and again, cancelled at its first step, its second, to its end.

    It is `cancel_everywhere` for what no simulation can run: a driver, a pool, a client of a real
    server. A step is what the operation does between two waits; tasks that it starts are cancelled
    with it, but their steps are not counted.

    Args:
        operation: an async function; what it works on is the caller's, and the same in all runs.
        check: an async function that is called after each run; raises when something is wrong.
        moments: "before" a step cancels at the next checkpoint, "in flight" while the operation
            waits for what the step began.
        limit: steps at most.

    Returns:
        how many steps there were to cancel at, for each moment.

    Raises:
        AssertionError: the operation did not end within the limit.
        ValueError: an unknown moment.
        Whatever the operation raises other than its cancellation, and what `check` raises.

    Cancelled, it ends with the run that goes on; `check` is not called.
    """
    unknown = [moment for moment in moments if moment not in get_args(Moment)]
    if unknown:  # it would never come, and nothing be cancelled
        raise ValueError(f"a moment is 'before' or 'in flight', got {unknown[0]!r}")
    return {moment: await _sweep(operation, check, moment, limit) for moment in moments}


async def _sweep(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], Awaitable[object]] | None,
    moment: Moment,
    limit: int,
) -> int:
    shorter = 0
    for step in range(1, limit + _SHORTER_RUNS + 1):
        try:
            reached = await _run(operation, step, moment)
            if check is not None:
                await check()
        except Exception as exc:
            exc.add_note(f"cancelled {moment} step {step}, if there was one")
            raise
        shorter = 0 if reached else shorter + 1
        if shorter == _SHORTER_RUNS:
            return step - shorter
    raise AssertionError(f"the operation did not end within {limit} steps")


async def _run(operation: Callable[[], Awaitable[object]], step: int, moment: Moment) -> bool:
    """Run it once, cancelled at a step; return whether it had so many."""
    reached = False

    def at(number: int, now: Moment) -> None:
        nonlocal reached
        if number == step and now == moment:
            reached = True
            scope.cancel()

    async def run() -> None:
        await operation()

    with anyio.CancelScope() as scope:
        await _Steps(run(), at)
    return reached


class _Steps:
    """Runs a coroutine, and calls back before each of its steps and when the step has blocked."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], at: Callable[[int, Moment], None]
    ) -> None:
        self._coroutine = coroutine
        self._at = at

    def __await__(self) -> Generator[Any, Any, None]:
        proceed: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        number = 0
        while True:
            number += 1
            self._at(number, "before")
            try:
                trap = proceed(value)
            except StopIteration:
                return
            self._at(number, "in flight")
            try:
                value = yield trap
                proceed = self._coroutine.send
            except BaseException as exc:  # noqa: ASYNC103, BLE001 - handed on to it
                value = exc
                proceed = self._coroutine.throw
