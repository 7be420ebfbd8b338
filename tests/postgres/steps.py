"""Cancels an operation at each of its steps; knows both event loops, not PostgreSQL.

A step is what a task does between two suspensions. They are counted by an awaitable that passes on
whatever the operation yields to the event loop, which works alike on Trio and on asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Literal

import anyio

#: "before": the scope is cancelled just before a step, so that its next checkpoint raises.
#: "in flight": it is cancelled while the task waits after that step.
Moment = Literal["before", "in flight"]
MOMENTS: tuple[Moment, ...] = ("before", "in flight")

#: A sweep that is not over after so many steps is not going to be.
LIMIT = 400


class Counted:
    """Runs a coroutine and calls `at_step(n)` before its n-th step, from 1."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], at_step: Callable[[int], None]
    ) -> None:
        self._coroutine = coroutine
        self._at_step = at_step
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, None]:
        proceed: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            self.steps += 1
            self._at_step(self.steps)
            try:
                trap = proceed(value)
            except StopIteration:
                return
            try:
                value = yield trap
                proceed = self._coroutine.send
            except BaseException as exc:  # noqa: BLE001 - handed on to the coroutine
                value = exc
                proceed = self._coroutine.throw


async def run_cancelled_at(
    operation: Callable[[], Coroutine[Any, Any, None]], step: int, moment: Moment
) -> bool:
    """Run the operation once, cancelling it at `step`; False if it had fewer steps."""
    reached = anyio.Event()
    with anyio.CancelScope() as scope:

        def at_step(number: int) -> None:
            if number == step:
                reached.set()
                if moment == "before":
                    scope.cancel()

        async def cancel_in_flight() -> None:
            await reached.wait()
            scope.cancel()

        async with anyio.create_task_group() as group:
            if moment == "in flight":
                group.start_soon(cancel_in_flight)
            await Counted(operation(), at_step)
            group.cancel_scope.cancel()
    return reached.is_set()


async def cancel_everywhere(
    operation: Callable[[], Coroutine[Any, Any, None]],
    check: Callable[[int, Moment], Awaitable[None]],
) -> int:
    """Run the operation, cancelled at step 1, 2, … until it ends before; `check` after each run.

    Returns how many runs were cancelled.
    """
    runs = 0
    for moment in MOMENTS:
        async for step in _until_finished(operation, moment):
            runs += 1
            await check(step, moment)
    return runs


async def _until_finished(
    operation: Callable[[], Coroutine[Any, Any, None]], moment: Moment
) -> AsyncIterator[int]:
    for step in range(1, LIMIT):
        reached = await run_cancelled_at(operation, step, moment)
        yield step
        if not reached:
            return
    raise AssertionError(f"the operation has not ended after {LIMIT} steps")
