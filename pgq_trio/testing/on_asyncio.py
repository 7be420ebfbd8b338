"""Simulated runs on asyncio: an event loop with a clock that jumps and one decision a step.

Public means only: `call_soon` and `time` are overridden, and the selector is one that moves the
clock instead of waiting. Callbacks that are no steps of tasks keep their order and cost no
decision. uvloop cannot be driven in this way.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import Context, copy_context
from itertools import count
from time import get_clock_info
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack
from weakref import WeakKeyDictionary

from pgq_trio.testing.decisions import Decisions
from pgq_trio.testing.replaying import code_of
from pgq_trio.testing.simulation import Simulation

__all__ = ["run_on_asyncio"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Methods of an event loop that reach outside, and what a scenario is about to do with them.
_OUTSIDE = {
    "connect_read_pipe": "read from a pipe",
    "connect_write_pipe": "write to a pipe",
    "create_connection": "connect to a server",
    "create_datagram_endpoint": "open a socket",
    "create_server": "open a server",
    "create_unix_connection": "connect to a server",
    "create_unix_server": "open a server",
    "getaddrinfo": "look up a host",
    "getnameinfo": "look up an address",
    "sock_connect": "connect to a server",
    "subprocess_exec": "start a process",
    "subprocess_shell": "start a process",
}

#: Of asyncio's clocks, in seconds; a clock that counts in more has the same.
_RESOLUTION = get_clock_info("monotonic").resolution

#: How threads are called that AnyIO and asyncio start for functions.
_THREADS = ("AnyIO worker thread", "asyncio_")


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
        self._threads = set(threading.enumerate())
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._selector_ = _JumpingSelector(self._on_jump, self._on_stuck, self._next_deadline)
        super().__init__(self._selector_)
        for method, what in _OUTSIDE.items():
            setattr(self, method, _refusing(simulation, what))
        simulation.tasks = self._unfinished

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

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have no timer for what never comes: asyncio would look for it once a day, for ever.

        A timer runs when its time is less than now and the clock's resolution, which is lost in
        the rounding of large numbers: there it is set to the next smaller one.
        """
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        below = math.nextafter(when, -math.inf) if when + _RESOLUTION == when else when
        timer = super().call_at(below, callback, *args, context=context)
        heapq.heappush(self._timers, (when, next(self._started), timer))
        return timer

    def _next_deadline(self) -> float | None:
        """Return when the next timer is due; asyncio waits for a day at most."""
        while self._timers:
            when, _, timer = self._timers[0]
            if when > self.time() and not timer.cancelled():
                return when
            heapq.heappop(self._timers)
        return None

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

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - the interface
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Refuse the thread, or call the function at once."""
        future: asyncio.Future[T] = self.create_future()
        if self._simulation.threads == "refuse":
            future.set_exception(self._simulation.refuse_thread(code_of(func, "a function")))
            return future
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - it is the caller's
            future.set_exception(exc)
        return future

    def _unfinished(self) -> list[tuple[str, object]]:
        # In the order of their starts: `all_tasks` is a set.
        tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
        tasks.sort(key=lambda task: self._numbers.get(task, 0))
        return [(task.get_name(), task.get_coro()) for task in tasks]

    def _has_thread(self) -> bool:
        return any(
            thread.name.startswith(_THREADS)
            for thread in threading.enumerate()
            if thread not in self._threads
        )

    def _on_jump(self, waits: int) -> None:
        """Note that the clock is about to jump."""
        if self._has_thread():
            self._simulation.found_thread()
        elif self._simulation.waits_outside(waits):
            self._simulation.jumps_over_io()

    def _on_stuck(self, waits: int) -> bool:
        """Give up if nothing can wake the tasks any more. Returns whether that is so."""
        if self._simulation.scope is None:
            return False
        if self._simulation.error is not None:
            # Who still waits is shielded from the scope; nothing is from this.
            for task in asyncio.all_tasks(self):
                task.cancel()
        elif self._has_thread():
            self._simulation.found_thread()
        else:
            self._simulation.stuck(self._simulation.waits_outside(waits))
        return True


def _refusing(simulation: Simulation[Any], what: str) -> Callable[..., Awaitable[NoReturn]]:
    async def refuse(*_arguments: object, **_options: object) -> NoReturn:
        error = simulation.refuse_io(what)
        await asyncio.sleep(0)
        raise error

    return refuse


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

    def __init__(
        self,
        on_jump: Callable[[int], None],
        on_stuck: Callable[[int], bool],
        next_deadline: Callable[[], float | None],
    ) -> None:
        super().__init__()
        self._next_deadline = next_deadline
        self.now = 0.0
        self._on_jump = on_jump
        self._on_stuck = on_stuck

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        # One is the loop's own, which waits for signals and for threads.
        waits = len(self.get_map()) - 1
        if timeout is not None and timeout < math.inf:
            self._on_jump(waits)
            deadline = self._next_deadline()
            self.now = self.now + timeout if deadline is None else deadline
            return []
        # What a task of the scenario wrote to a socket of its own is there at once: who else waits
        # on one waits for the outside world, which a scenario does not have.
        if self._on_stuck(waits):
            return []
        return super().select(None)
