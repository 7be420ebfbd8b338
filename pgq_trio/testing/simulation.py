"""What one simulated run is and was: its steps, its faults, its end; knows no event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

import anyio
import anyio.lowlevel

from pgq_trio.testing.decisions import Decisions, Schedule, shortened

__all__ = [
    "BACKENDS",
    "Backend",
    "Deadlock",
    "Fault",
    "Livelock",
    "Moment",
    "Simulation",
    "ThreadRefused",
]

R = TypeVar("R")

Backend: TypeAlias = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

#: When a fault strikes: before its step runs, so that a cancellation is delivered at the task's
#: next checkpoint; or after the step has blocked, so that it hits the operation under way.
Moment: TypeAlias = Literal["before", "in flight"]

#: Switches between tasks that a failure shows, from its end backwards.
_SHOWN = 60


class Deadlock(AssertionError):  # noqa: N818
    """All tasks wait for each other: none can run, and no time is awaited."""


class Livelock(AssertionError):  # noqa: N818
    """The run made more steps than it should: most likely tasks that wake each other for ever."""


class ThreadRefused(AssertionError):  # noqa: N818
    """The scenario starts a thread, whose steps nobody can order."""


@dataclass(slots=True)
class Fault:
    """Something that happens at one step of a run; without an action the run is cancelled.

    Attributes:
        step: the number of the step, from 1.
        moment: before that step, or after it, while what it began is in flight.
        action: called with the simulation, on the event loop's thread; it must not wait.
    """

    step: int
    moment: Moment = "in flight"
    action: Callable[[Simulation[Any]], None] | None = None


@dataclass(slots=True, eq=False)
class Simulation(Generic[R]):
    """One run of a scenario under one schedule.

    Attributes:
        backend: the event loop.
        schedule: what was given.
        decisions: what was decided.
        trace: the name of the task of each step.
        result: what the scenario returned.
        error: what it raised, or why the run was given up.
        cancelled: whether a fault's cancellation ended the scenario.
        scope: the cancel scope around the scenario while it runs.
    """

    backend: Backend
    schedule: Schedule
    decisions: Decisions[Any]
    faults: list[Fault] = field(default_factory=list[Fault])
    max_steps: int = 100_000
    trace: list[str] = field(default_factory=list[str], init=False)
    result: R | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    cancelled: bool = field(default=False, init=False)
    scope: anyio.CancelScope | None = field(default=None, init=False)

    @property
    def steps(self) -> int:
        """How many steps the scenario's tasks made."""
        return len(self.trace)

    @property
    def picks(self) -> tuple[int, ...]:
        """The shortest schedule that leads to this run."""
        return shortened([decision.pick for decision in self.decisions.taken])

    def check(self) -> R:
        """Return the scenario's result, or raise what it raised, with how to see it again."""
        if self.error is not None:
            if not any("to see it again" in note for note in getattr(self.error, "__notes__", ())):
                self.error.add_note(self.replay())
            raise self.error
        return self.result  # type: ignore[return-value]  # it ended without an error

    def replay(self) -> str:
        """Return the line of code that repeats this run, and which task went when."""
        call = f"simulate(scenario, schedule={self.picks!r}, backend={self.backend!r})"
        switches = [
            f"{name} x{count}" if count > 1 else name for name, count in _switches(self.trace)
        ]
        shown = switches[-_SHOWN:]
        if len(shown) < len(switches):
            shown.insert(0, "...")
        lines = [f"to see it again: {call}", f"the tasks went: {', '.join(shown)}"]
        return "\n".join(lines)

    # What the backends call; none of it may raise, for a loop would swallow that.

    def before_step(self, task: str) -> None:
        """Note a step of one of the scenario's tasks."""
        if self.scope is None:
            return  # before the scenario, or after it
        self.trace.append(task)
        if self.steps > self.max_steps:
            last = ", ".join(sorted(set(self.trace[-100:])))
            self.give_up(Livelock(f"more than {self.max_steps} steps; the last were of {last}"))
        self._strike("before")

    def after_step(self) -> None:
        """Note that the step has blocked or ended."""
        self._strike("in flight")

    def give_up(self, error: BaseException) -> None:
        """End the run with this error, the first one counts."""
        if self.error is None:
            self.error = error
        if self.scope is not None:
            self.scope.cancel()

    async def run(self, scenario: Callable[[], Any]) -> None:
        """Run the scenario in a scope of its own; what it raises is kept."""
        self.scope = scope = anyio.CancelScope()
        # What comes before this is no step of the scenario; from the next step on they count.
        await anyio.lowlevel.checkpoint()
        try:
            with scope:
                self.result = await scenario()
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - kept for `check`
            self.error = self.error or exc
        finally:
            self.scope = None
        self.cancelled = scope.cancelled_caught

    def _strike(self, moment: Moment) -> None:
        for fault in self.faults:
            if fault.moment != moment or fault.step != self.steps or self.scope is None:
                continue
            if fault.action is None:
                self.scope.cancel()
                continue
            try:
                fault.action(self)
            except BaseException as exc:  # noqa: ASYNC103, BLE001 - kept for `check`, outside of the loop
                self.give_up(exc)


def _switches(trace: list[str]) -> list[tuple[str, int]]:
    switches: list[tuple[str, int]] = []
    for name in trace:
        if switches and switches[-1][0] == name:
            switches[-1] = name, switches[-1][1] + 1
        else:
            switches.append((name, 1))
    return switches
