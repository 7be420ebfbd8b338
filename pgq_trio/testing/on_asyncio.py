"""Simulated runs on asyncio: an event loop with a clock that jumps and one decision a step.

Public means only: `call_soon` and `time` are overridden, and the selector is one that moves the
clock instead of waiting. Callbacks that are no steps of tasks keep their order and cost no
decision. uvloop cannot be driven in this way.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVarTuple, Unpack
from weakref import WeakKeyDictionary

from pgq_trio.testing.decisions import Decisions
from pgq_trio.testing.simulation import Deadlock, Simulation

__all__ = ["run_on_asyncio"]

Ts = TypeVarTuple("Ts")


def run_on_asyncio(simulation: Simulation[Any], scenario: Callable[[], Any]) -> None:
    """Run a scenario to its end; its outcome is in the simulation."""
    with asyncio.Runner(loop_factory=lambda: _Loop(simulation)) as runner:
        runner.run(_named(simulation, scenario))


async def _named(simulation: Simulation[Any], scenario: Callable[[], Any]) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs is run by a task
    task.set_name("main")
    await simulation.run(scenario)


class _Loop(asyncio.SelectorEventLoop):
    """Holds steps of tasks back and runs them one by one, in the order that is decided.

    They stand in the order in which they came; those that came between the same two steps in the
    order in which their tasks were started: a cancelled scope, for one, takes its tasks from a set,
    in another order in each process, and a schedule is to mean the same in all of them.
    """

    def __init__(self, simulation: Simulation[Any]) -> None:
        self._simulation = simulation
        self._decisions: Decisions[asyncio.Task[Any]] = simulation.decisions
        self._held: list[_Step] = []
        self._is_pumping = False
        self._batch = 0
        self._numbers: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._started = count()
        self._selector_ = _JumpingSelector(self._on_stuck)
        super().__init__(self._selector_)

    def time(self) -> float:
        return self._selector_.now

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        task = getattr(callback, "__self__", None)
        if not isinstance(task, asyncio.Task):
            return super().call_soon(callback, *args, context=context)
        known: asyncio.Task[Any] = task  # pyright: ignore[reportUnknownVariableType]
        if known not in self._numbers:
            self._numbers[known] = next(self._started)
        place = self._batch, self._numbers[known]
        step = _Step(known, place, callback, args, self, context or copy_context())
        self._held.append(step)
        self._pump()
        return step

    def _pump(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            super().call_soon(self._run_one)

    def _run_one(self) -> None:
        self._is_pumping = False
        self._held = [step for step in self._held if not step.cancelled()]
        if not self._held:
            return
        self._held.sort(key=lambda step: step.place)
        self._batch += 1
        task = self._decisions.choose([step.task for step in self._held])
        step = next(step for step in self._held if step.task is task)
        self._held.remove(step)
        if self._held:
            self._pump()
        self._simulation.before_step(task.get_name())
        step.run()
        self._simulation.after_step()

    def _on_stuck(self) -> bool:
        """Give up if nothing can wake the tasks any more. Returns whether that is so."""
        if self._simulation.scope is None:
            return False
        waiting = sorted(task.get_name() for task in asyncio.all_tasks(self) if not task.done())
        self._simulation.give_up(
            Deadlock(f"all tasks wait, and nothing will wake them: {', '.join(waiting)}")
        )
        return True


class _Step(asyncio.Handle):
    """One step of a task, not yet made."""

    def __init__(
        self,
        task: asyncio.Task[Any],
        place: tuple[int, int],
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self.task = task
        self.place = place
        self._make = (callback, args, context)

    __slots__ = ("_make", "place", "task")

    def run(self) -> None:
        """Make the step, in the task's own context."""
        callback, args, context = self._make
        context.run(callback, *args)


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait for time to pass but moves the clock."""

    def __init__(self, on_stuck: Callable[[], bool]) -> None:
        super().__init__()
        self.now = 0.0
        self._on_stuck = on_stuck

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is not None and timeout < math.inf:
            self.now += timeout
            return []
        # What a task of the scenario wrote to a socket of its own is there at once: who else waits
        # on one waits for the outside world, which a scenario does not have.
        if self._on_stuck():
            return []
        return super().select(None)
