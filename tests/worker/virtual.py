"""Both event loops under a clock that jumps, with a callback at each step; knows no jobs.

On Trio: MockClock and an instrument. On asyncio: an event loop whose `time`, `call_soon` and
selector are overridden. When nothing can run, time jumps to the next deadline.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import Any, Literal, TypeVarTuple, Unpack

import trio
import trio.testing
from trio._core import _run as _trio_run

Ts = TypeVarTuple("Ts")

Backend = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = ("trio", "asyncio")

#: Called before each step of any task with its number, from 1; must not raise.
OnStep = Callable[[int], None]


def run(
    backend: Backend,
    main: Callable[[], Awaitable[None]],
    *,
    on_step: OnStep = lambda _: None,
    seed: int = 0,
) -> int:
    """Run a program; return how many steps it took.

    Trio runs the tasks of a batch in an order it draws: the seed decides it, so that a run can be
    repeated. Asyncio has one order only.
    """
    if backend == "asyncio":
        return _on_asyncio(main, on_step)
    _trio_run._r.seed(seed)
    return _on_trio(main, on_step)


class _Steps(trio.abc.Instrument):
    def __init__(self, on_step: OnStep) -> None:
        self.count = 0
        self._on_step = on_step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        self._on_step(self.count)


def _on_trio(main: Callable[[], Awaitable[None]], on_step: OnStep) -> int:
    steps = _Steps(on_step)
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock, instruments=[steps])
    return steps.count


class _Jumping(selectors.DefaultSelector):
    """Does not wait for time to pass but moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            return super().select(None)
        self.now += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return super().get_map() or {}


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, on_step: OnStep) -> None:
        self._jumping = _Jumping()
        self._on_step = on_step
        self.steps = 0
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        def step() -> None:
            self.steps += 1
            self._on_step(self.steps)
            callback(*args)

        return super().call_soon(step, context=context)


def _on_asyncio(main: Callable[[], Awaitable[None]], on_step: OnStep) -> int:
    loop = _Loop(on_step)

    async def awaited() -> None:
        await main()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(awaited())
    return loop.steps
