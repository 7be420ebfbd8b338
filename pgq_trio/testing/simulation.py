"""What one simulated run is and was: its steps, its faults, its end; knows no event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

import anyio
import anyio.lowlevel

from pgq_trio.testing.decisions import Decisions, Schedule, shortened
from pgq_trio.testing.replaying import call_code, code_of, schedule_code, switches
from pgq_trio.testing.waiting import is_shutdown_watch, place_of

__all__ = [
    "BACKENDS",
    "Backend",
    "Deadlock",
    "Fault",
    "IORefused",
    "Livelock",
    "Moment",
    "Origin",
    "Simulation",
    "ThreadRefused",
    "Threads",
]

R = TypeVar("R")

Backend: TypeAlias = Literal["trio", "asyncio"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

#: "refuse" gives the run up with `ThreadRefused` when a thread is asked for. "inline" calls the
#: function at once on the event loop's thread, as one step that nothing can come between; it must
#: not use `anyio.from_thread`, which needs a thread.
Threads: TypeAlias = Literal["refuse", "inline"]

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


class IORefused(AssertionError):  # noqa: N818
    """The scenario waits for the outside world, for which a clock that jumps does not wait."""


@dataclass(slots=True, repr=False)
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

    def __repr__(self) -> str:
        moment = [repr(self.moment)] if self.moment != "in flight" else []
        action = [("action", code_of(self.action, "action"))] if self.action is not None else []
        return call_code("Fault", [str(self.step), *moment], action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run is a run of, for the code that repeats it.

    Attributes:
        scenario: the async function.
        arguments: code of each of its arguments.
        options: names and code of what was not left as it is by default, beside the schedule, the
            event loop and the faults.
    """

    scenario: object = None
    arguments: Sequence[str] = ()
    options: Sequence[tuple[str, str]] = ()


@dataclass(slots=True, eq=False)
class Simulation(Generic[R]):
    """One run of a scenario under one schedule.

    Attributes:
        backend: the event loop.
        schedule: what was given.
        decisions: what was decided.
        threads: what becomes of threads that the scenario starts.
        trace: the name of the task of each step.
        result: what the scenario returned.
        error: what it raised, or why the run was given up.
        cancelled: whether a fault's cancellation ended the scenario.
        scope: the cancel scope around the scenario while it runs.
        tasks: returns the scenario's tasks that have not ended, each with its coroutine.
        hurried: tasks that waited for real I/O while the clock jumped, and where.
    """

    backend: Backend
    schedule: Schedule
    decisions: Decisions[Any]
    faults: list[Fault] = field(default_factory=list[Fault])
    threads: Threads = "refuse"
    max_steps: int = 100_000
    origin: Origin = field(default_factory=Origin)
    trace: list[str] = field(default_factory=list[str], init=False)
    result: R | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    cancelled: bool = field(default=False, init=False)
    scope: anyio.CancelScope | None = field(default=None, init=False)
    tasks: Callable[[], Iterable[tuple[str, object]]] = field(default=tuple, init=False)
    hurried: list[str] = field(default_factory=list[str], init=False)

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
            self.explain(self.error)
            raise self.error
        return self.result  # type: ignore[return-value]  # it ended without an error

    def explain(self, error: BaseException) -> None:
        """Note on an error how to see it again, unless that is noted."""
        note = self.replay()
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)

    def replay(self) -> str:
        """Return the code that repeats this run, that which pins it, and which task went when."""
        origin = self.origin
        scenario = code_of(origin.scenario, "scenario") if origin.scenario else "scenario"
        drawn = [("schedule", schedule_code(self.picks))]
        faults = [("faults", repr(self.faults))] if self.faults else []
        options = [*drawn, ("backend", repr(self.backend)), *faults, *origin.options]
        lines = [
            f"to see it again: {call_code('simulate', [scenario, *origin.arguments], options)}",
            f"to pin it, above @given: @{call_code('example', [], [*drawn, *faults])}",
            f"the tasks went: {switches(self.trace, _SHOWN)}",
        ]
        for fault in self.faults:
            if fault.action is None and 0 < fault.step <= self.steps:
                task = self.trace[fault.step - 1]
                lines.append(f"cancelled {fault.moment} step {fault.step}, one of task {task!r}")
        if self.hurried:
            lines.append(f"the clock jumped, and real I/O was late, for {self.hurried[0]}")
        return "\n".join(lines)

    # What the backends call; none of it may raise, for a loop would swallow that.

    def before_step(self, task: str) -> None:
        """Note a step of one of the scenario's tasks."""
        if self.scope is None:
            return  # before the scenario, or after it
        self.trace.append(task)
        if self.steps > self.max_steps:
            last = ", ".join(sorted(set(self.trace[-100:])))
            what = f"more than {self.max_steps} steps; the last were of {last}"
            self.give_up(Livelock(f"{what}; where all are{self.places()}"))
        self._strike("before")

    def after_step(self) -> None:
        """Note that the step has blocked or ended."""
        self._strike("in flight")

    def stuck(self, waits_for_io: bool) -> None:
        """End the run: no task can run, no time is awaited, and no thread is under way."""
        if waits_for_io:
            self.give_up(
                IORefused(
                    "all tasks wait, and one of them for real I/O, which has no place in a "
                    f"simulation: use a fake, such as PgQueuer.in_memory{self.places()}"
                )
            )
        else:
            self.give_up(Deadlock(f"all tasks wait, and nothing will wake them{self.places()}"))

    def refuse_io(self, what: str) -> IORefused:
        """End the run, and return the error to be raised; `what` the scenario is about to do."""
        error = IORefused(
            f"the scenario is about to {what}, and the clock of a simulation does not wait for the "
            "outside world: use a fake, such as PgQueuer.in_memory"
        )
        self.give_up(error)
        return error

    def refuse_thread(self, what: str) -> ThreadRefused:
        """End the run, and return the error to be raised; `what` the thread is to run."""
        error = ThreadRefused(
            f"{what} is to run in a thread, and nobody can order the steps of threads: make it "
            "async, or pass threads='inline' to have it called at once, as one step"
        )
        self.give_up(error)
        return error

    def found_thread(self) -> None:
        """End the run: a thread is under way whose start was not seen."""
        self.give_up(
            ThreadRefused(
                "a thread is under way, and nobody can order the steps of threads: make what it "
                "runs async, or call `anyio.to_thread.run_sync` by this name, not by one of your "
                "own, and pass threads='inline'"
            )
        )

    def waits_outside(self, waits: int) -> bool:
        """Whether somebody waits for the outside world, of so many who wait for I/O.

        An application waits for a request to shut down on a socket both of whose ends it holds.
        """
        return waits > sum(is_shutdown_watch(task) for _, task in self.tasks())

    def jumps_over_io(self) -> None:
        """Note that the clock will jump while a task waits for real I/O."""
        if not self.hurried and self.scope is not None:
            self.hurried.append(f"one of these{self.places()}")

    def places(self) -> str:
        """Return where the scenario's tasks wait, a line for each."""
        return ":" + "".join(f"\n- {name} at {place_of(task)}" for name, task in self.tasks())

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
