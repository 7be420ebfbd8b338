"""Simulated runs on Trio: a clock that jumps, and a run queue that hands out one task at a time.

Trio runs the tasks of a batch in an order it draws itself. The one private place touched here is
the runner's queue, which is replaced by one that asks for a decision; where it is not found as
expected, `is_controllable` says so and a run is made with public means alone.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, NoReturn
from unittest.mock import patch

import outcome
import trio
import trio.testing

from pgq_trio.testing.decisions import Decisions
from pgq_trio.testing.simulation import Simulation
from pgq_trio.testing.threads import replaced_here, run_sync_of

__all__ = ["is_controllable", "run_on_trio"]

Task = trio.lowlevel.Task

#: Looks for events in a row with nothing to do after which all tasks count as blocked for ever.
_IDLE_LOOKS = 50

#: Of a checkpoint when tasks cannot be ordered, in seconds; more than a few tell nothing more.
_LONGEST_DELAY = 3


def run_on_trio(simulation: Simulation[Any], scenario: Callable[[], Any]) -> None:
    """Run a scenario to its end; its outcome is in the simulation."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        task = trio.lowlevel.current_task()
        task.name = "main"
        hooks.begin(task)
        trio.socket.set_custom_socket_factory(_NoSockets(simulation))
        trio.socket.set_custom_hostname_resolver(_NoNames(simulation))
        await simulation.run(scenario)

    controlled = is_controllable()
    with (
        nullcontext() if controlled else _delays_at_checkpoints(simulation.decisions),
        _nothing_outside(simulation),
    ):
        hooks = _Hooks(simulation, clock, controlled=controlled)
        trio.run(main, clock=clock, instruments=[hooks])


class _Hooks(trio.abc.Instrument):
    """Follows the scenario's tasks. Nothing here may raise: Trio would drop the instrument."""

    def __init__(
        self, simulation: Simulation[Any], clock: trio.abc.Clock, *, controlled: bool
    ) -> None:
        self._simulation = simulation
        self._clock = clock
        self._time = clock.current_time()
        self._controlled = controlled
        self._numbers: dict[Task, int] = {}
        self._count = 0
        self._idle = 0
        self._is_ours = False

    def begin(self, task: Task) -> None:
        """Follow this task and all that it starts."""
        self._add(task)
        self._simulation.tasks = lambda: [(task.name, task.coro) for task in self._numbers]

    def before_run(self) -> None:
        if self._controlled:
            _replace_queue(self._numbers, self._simulation.decisions)

    def task_spawned(self, task: Task) -> None:
        nursery = task.parent_nursery
        if nursery is not None and nursery.parent_task in self._numbers:
            self._add(task)

    def task_exited(self, task: Task) -> None:
        self._numbers.pop(task, None)

    def task_scheduled(self, task: Task) -> None:  # noqa: ARG002 - the interface
        self._idle = 0

    def before_task_step(self, task: Task) -> None:
        # Asked here, since a task that ends is gone before `after_task_step`.
        self._is_ours = task in self._numbers
        if self._is_ours:
            self._simulation.before_step(task.name)

    def after_task_step(self, task: Task) -> None:  # noqa: ARG002 - the interface
        if self._is_ours:
            self._simulation.after_step()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the interface
        now = self._clock.current_time()
        if now != self._time:
            self._time = now
            self._jumped()
        self._idle += 1
        if self._idle >= _IDLE_LOOKS:
            statistics = trio.lowlevel.current_statistics()
            if statistics.tasks_runnable or statistics.seconds_to_next_deadline < math.inf:
                return
            if trio.testing.active_thread_count():
                self._simulation.found_thread()
            elif self._simulation.error is None:
                self._simulation.stuck(self._simulation.waits_outside(_waits()))
            else:
                self._abandon()

    def _abandon(self) -> None:
        """Raise in who still waits after the run was given up: the scope cannot reach it."""
        for task in list(self._numbers):
            if not any(nursery.child_tasks for nursery in task.child_nurseries):
                trio.lowlevel.reschedule(task, outcome.Error(_Abandoned()))

    def _jumped(self) -> None:
        if trio.testing.active_thread_count():
            self._simulation.found_thread()
        elif self._simulation.waits_outside(_waits()):
            self._simulation.jumps_over_io()

    def _add(self, task: Task) -> None:
        self._count += 1
        self._numbers[task] = self._count


def _waits() -> int:
    """Return how many tasks wait for I/O."""
    statistics: Any = trio.lowlevel.current_statistics().io_statistics
    names = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting")
    # One is Trio's own, which waits for signals and for threads.
    return sum(getattr(statistics, name, 0) for name in names) - 1


class _Abandoned(BaseException):
    """Ends a task that waits under a shield for what will never come."""


class _Queue(deque[Task]):
    """The runner's queue: the loop takes a batch by `list(queue)` and `clear()`; it gets one task.

    Tasks that are not the scenario's (Trio's own) go first and cost no decision. The others stand
    in the order in which they came; those of one batch, which come in no order of their own (some
    wake-ups go through sets), in the order in which they were started.
    """

    def __init__(
        self, tasks: Iterable[Task], numbers: dict[Task, int], decisions: Decisions[Task]
    ) -> None:
        super().__init__()
        self._numbers = numbers
        self._decisions = decisions
        self._batch = 0
        self._came: dict[Task, int] = {}
        self._handed: Task | None = None
        for task in tasks:
            self.append(task)

    def append(self, task: Task) -> None:
        self._came[task] = self._batch
        super().append(task)

    def __iter__(self) -> Iterator[Task]:
        tasks = list(super().__iter__())
        if not tasks:
            return iter(())
        foreign = next((task for task in tasks if task not in self._numbers), None)
        if foreign is None:
            tasks.sort(key=lambda task: (self._came[task], self._numbers[task]))
        self._handed = foreign or self._decisions.choose(tasks)
        return iter([self._handed])

    def clear(self) -> None:
        self._batch += 1
        if self._handed is None:
            super().clear()
            self._came.clear()
            return
        self.remove(self._handed)
        del self._came[self._handed]
        self._handed = None


def _replace_queue(numbers: dict[Task, int], decisions: Decisions[Task]) -> None:
    runner = _runner()
    runner.runq = _Queue(runner.runq, numbers, decisions)


def _runner() -> Any:
    from trio._core._run import GLOBAL_RUN_CONTEXT

    return GLOBAL_RUN_CONTEXT.runner


class _NoSockets(trio.abc.SocketFactory):
    """Refuses sockets; pairs of them, whose both ends are the scenario's, do not come here."""

    def __init__(self, simulation: Simulation[Any]) -> None:
        self._simulation = simulation

    def socket(
        self,
        family: int = 0,  # noqa: ARG002 - the interface
        type: int = 0,  # noqa: A002, ARG002 - the interface
        proto: int = 0,  # noqa: ARG002 - the interface
    ) -> NoReturn:
        raise self._simulation.refuse_io("open a socket")


class _NoNames(trio.abc.HostnameResolver):
    """Refuses to look names up."""

    def __init__(self, simulation: Simulation[Any]) -> None:
        self._simulation = simulation

    async def getaddrinfo(self, *_arguments: object, **_options: object) -> NoReturn:
        raise self._simulation.refuse_io("look up a host")

    async def getnameinfo(self, *_arguments: object, **_options: object) -> NoReturn:
        raise self._simulation.refuse_io("look up an address")


@contextmanager
def _nothing_outside(simulation: Simulation[Any]) -> Generator[None]:
    async def no_process(*_arguments: object, **_options: object) -> NoReturn:
        error = simulation.refuse_io("start a process")
        await trio.lowlevel.checkpoint()
        raise error

    with (
        replaced_here(trio, "run_process", no_process),
        replaced_here(trio.lowlevel, "open_process", no_process),
        replaced_here(trio.to_thread, "run_sync", run_sync_of(simulation)),
    ):
        yield


@contextmanager
def _delays_at_checkpoints(decisions: Decisions[Any]) -> Generator[None]:
    """Have each checkpoint last as long as the schedule says, in seconds of a clock that jumps."""
    original = trio.lowlevel.checkpoint

    async def checkpoint() -> None:
        await original()
        if seconds := decisions.delay(_LONGEST_DELAY):
            await trio.sleep(seconds)

    with patch.object(trio.lowlevel, "checkpoint", checkpoint):
        yield


@cache
def is_controllable() -> bool:
    """Whether this release of Trio has its run queue where it is expected, tried out once.

    Two tasks of three checkpoints each make four steps each, which can be put in one row in
    8!/(4!·4!) = 70 ways: the canary is that the first and the last of them come out as asked.
    """
    traces: list[list[str]] = []
    try:
        for schedule in ((), (1,) * 8):
            decisions: Decisions[Task] = Decisions(schedule)
            traces.append(_canary(decisions))
    except Exception:  # noqa: BLE001 - whatever another release of Trio does here
        traces = []
    if traces and traces == [list("aaaabbbb"), list("babababa")]:
        return True
    warnings.warn(
        f"the run queue of Trio {trio.__version__} is not where it was: simulations on Trio vary "
        "the delays at checkpoints instead of the order of tasks",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _canary(decisions: Decisions[Task]) -> list[str]:
    trace: list[str] = []

    async def walk(name: str) -> None:
        for _ in range(3):
            trace.append(name)
            await trio.lowlevel.checkpoint()
        trace.append(name)

    async def main() -> None:
        hooks.begin(trio.lowlevel.current_task())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk, "a")
            nursery.start_soon(walk, "b")

    clock = trio.testing.MockClock()
    hooks = _Hooks(Simulation("trio", (), decisions), clock, controlled=True)
    trio.run(main, instruments=[hooks])
    return trace
