"""Running a scenario under one schedule, under all of them, and cancelled at each of its steps."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from pgq_trio.testing.decisions import Decisions, Policy, Schedule
from pgq_trio.testing.on_asyncio import run_on_asyncio
from pgq_trio.testing.on_trio import run_on_trio
from pgq_trio.testing.replaying import code_of
from pgq_trio.testing.sameness import same_again
from pgq_trio.testing.simulation import Backend, Fault, Moment, Origin, Simulation, Threads
from pgq_trio.testing.threads import threads_as

__all__ = ["cancel_everywhere", "explore", "simulate"]

R = TypeVar("R")

_RUN = {"trio": run_on_trio, "asyncio": run_on_asyncio}

_MAX_STEPS = 100_000


class _NoAwaitableError(TypeError):
    """The scenario is no async function, which is known when it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene(Generic[R]):
    """What is to be run and how; a schedule and faults make a run of it."""

    scenario: Callable[..., Awaitable[R]]
    make: Callable[[], Any] | None = None
    check: Callable[..., object] | None = None
    backend: Backend
    policy: Policy
    threads: Threads
    max_steps: int
    seed: int

    def __post_init__(self) -> None:
        scenario: object = self.scenario
        if not callable(scenario):
            if inspect.iscoroutine(scenario):
                scenario.close()  # nobody will await it, of which Python would warn
            raise TypeError(
                "a scenario is an async function: pass the function, not a call of it; "
                f"got {scenario!r}"
            )
        if self.backend not in _RUN:
            backends = ", ".join(get_args(Backend))
            raise ValueError(f"backend is one of {backends}, got {self.backend!r}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps is 1 or more, got {self.max_steps}")

    def run(
        self,
        arguments: Sequence[object],
        codes: Sequence[str],
        schedule: Schedule,
        faults: Iterable[Fault] = (),
    ) -> Simulation[R]:
        """Run it with these arguments, which the code of the run calls what `codes` say."""
        simulation: Simulation[R] = Simulation(
            backend=self.backend,
            schedule=tuple(schedule),
            decisions=Decisions(schedule, policy=self.policy),
            faults=list(faults),
            threads=self.threads,
            max_steps=self.max_steps,
            origin=Origin(scenario=self.scenario, arguments=codes, options=self._options()),
        )
        with same_again(self.seed), threads_as(simulation):
            _RUN[self.backend](simulation, lambda: self._begin(arguments))
        if isinstance(simulation.error, _NoAwaitableError):
            raise simulation.error
        return simulation

    def _begin(self, arguments: Sequence[object]) -> Awaitable[R]:
        begun: object = self.scenario(*arguments)
        if not inspect.isawaitable(begun):
            what = f"{code_of(self.scenario, 'the scenario')} returned {code_of(begun)}"
            raise _NoAwaitableError(
                f"a scenario is an async function; {what}, which cannot be awaited"
            )
        return begun

    def run_fresh(self, schedule: Schedule, faults: Iterable[Fault] = ()) -> Simulation[R]:
        """Run it in a fresh world, and raise what it or its check raises, noted how to see it."""
        world = () if self.make is None else (self.make(),)
        codes = () if self.make is None else (f"{code_of(self.make, 'make')}()",)
        simulation = self.run(world, codes, schedule, faults)
        try:
            simulation.check()
            if self.check is not None:
                self.check(*world, simulation)
        except BaseException as exc:
            simulation.explain(exc)
            raise
        return simulation

    def _options(self) -> list[tuple[str, str]]:
        defaults = {"policy": "stay", "threads": "refuse", "max_steps": _MAX_STEPS, "seed": 0}
        return [
            (name, repr(value))
            for name, default in defaults.items()
            if (value := getattr(self, name)) != default
        ]


def simulate(
    scenario: Callable[..., Awaitable[R]],
    *args: object,
    backend: Backend = "trio",
    schedule: Schedule = (),
    policy: Policy = "stay",
    faults: Iterable[Fault] = (),
    threads: Threads = "refuse",
    max_steps: int = _MAX_STEPS,
    seed: int = 0,
) -> Simulation[R]:
    """Run a scenario once, its tasks in the given order, on a clock that jumps.

    No real time passes: when no task can run, the clock jumps to the next deadline. Real I/O has
    no place in a scenario, since the clock does not wait for it: sockets and processes are refused
    with `IORefused`. The same call makes the same run, step by step, in any process: `random` is
    seeded, and queues in memory begin at midnight, UTC.

    Args:
        scenario: an async function; its tasks are those it starts in nurseries or task groups.
        *args: its arguments.
        backend: "trio" or "asyncio".
        schedule: which task goes next, decision by decision; `interleavings()` draws them.
        policy: who goes when the schedule says nothing.
        faults: what happens at which step.
        threads: what becomes of `anyio.to_thread.run_sync`: "refuse" or "inline".
        max_steps: more than that is a `Livelock`.
        seed: where `random` starts from; draw it where a scenario depends on chance.

    Returns:
        the run; nothing was raised yet: `check()` does, and returns what the scenario returned.

    Raises:
        TypeError: the scenario is no async function, or a call of one.
        ValueError: an argument that cannot be.
    """
    scene: _Scene[R] = _Scene(
        scenario=scenario,
        backend=backend,
        policy=policy,
        threads=threads,
        max_steps=max_steps,
        seed=seed,
    )
    return scene.run(args, [code_of(argument) for argument in args], schedule, faults)


def explore(
    scenario: Callable[..., Awaitable[R]],
    *,
    make: Callable[[], Any] | None = None,
    check: Callable[..., object] | None = None,
    backend: Backend = "trio",
    preemptions: int | None = 2,
    policy: Policy = "stay",
    threads: Threads = "refuse",
    max_steps: int = _MAX_STEPS,
    seed: int = 0,
    limit: int = 100_000,
) -> int:
    """Run a scenario under every schedule, up to a number of preemptions.

    Args:
        scenario: an async function; it must do the same under the same schedule.
        make: makes a fresh world for each run, which the scenario and `check` get.
        check: called after each run that raised nothing, with the world, if there is one, and the
            `Simulation`; raises when something is wrong.
        backend: "trio" or "asyncio".
        preemptions: deviations from the policy in one run, at most; None: any number. Most real
            faults need one or two.
        policy: see `simulate`.
        threads, max_steps, seed: see `simulate`.
        limit: runs at most.

    Returns:
        how many runs there were.

    Raises:
        TypeError: the scenario is no async function, or a call of one.
        AssertionError: there are more schedules than the limit allows.
        Whatever the scenario or `check` raises first, with the schedule that leads to it.
    """
    scene: _Scene[R] = _Scene(
        scenario=scenario,
        make=make,
        check=check,
        backend=backend,
        policy=policy,
        threads=threads,
        max_steps=max_steps,
        seed=seed,
    )
    prefix: tuple[int, ...] = ()
    for run in range(1, limit + 1):
        following = _next_prefix(scene.run_fresh(prefix), preemptions)
        if following is None:
            return run
        prefix = following
    raise AssertionError(f"more than {limit} schedules; lower `preemptions` or raise `limit`")


def _next_prefix(simulation: Simulation[Any], preemptions: int | None) -> tuple[int, ...] | None:
    """Return how the next schedule begins, depth first; None after the last."""
    taken = simulation.decisions.taken
    picks = [decision.pick for decision in taken]
    for place in range(len(taken) - 1, -1, -1):
        deviations = sum(pick > 0 for pick in picks[:place])
        if picks[place] + 1 < taken[place].runnable and (
            preemptions is None or deviations < preemptions
        ):
            return (*picks[:place], picks[place] + 1)
    return None


def cancel_everywhere(
    scenario: Callable[..., Awaitable[R]],
    *,
    make: Callable[[], Any] | None = None,
    check: Callable[..., object] | None = None,
    backend: Backend = "trio",
    moments: Sequence[Moment] = ("before", "in flight"),
    schedule: Schedule = (),
    policies: Sequence[Policy] = ("stay", "rotate"),
    threads: Threads = "refuse",
    max_steps: int = _MAX_STEPS,
    seed: int = 0,
    limit: int = 10_000,
) -> dict[Moment, int]:
    """Run a scenario again and again, cancelled at its first step, its second, until it ends first.

    It does so under both policies: as long as one task goes on until it waits, nobody comes between
    two checkpoints of it, and what is wrong only there is not seen.

    Args:
        scenario: an async function.
        make: makes a fresh world for each run, which the scenario and `check` get.
        check: called after each run with the world, if there is one, and the `Simulation`; raises
            when something is wrong.
        backend: "trio" or "asyncio".
        moments: "before" a step cancels at the task's next checkpoint, "in flight" cancels the
            operation that the step began.
        policies: who goes when the schedule says nothing, one sweep each.
        schedule, threads, max_steps, seed: see `simulate`.
        limit: steps at most.

    Returns:
        how many steps there were to cancel at, for each moment, under all policies together.

    Raises:
        TypeError: the scenario is no async function, or a call of one.
        ValueError: there is no policy or no moment to sweep under, or another argument cannot be.
        AssertionError: the scenario did not end within the limit.
        Whatever the scenario raises other than its cancellation, and what `check` raises.
    """
    if not policies or not moments:
        raise ValueError("a sweep without a policy, or without a moment, runs nothing")
    scenes: list[_Scene[R]] = [
        _Scene(
            scenario=scenario,
            make=make,
            check=check,
            backend=backend,
            policy=policy,
            threads=threads,
            max_steps=max_steps,
            seed=seed,
        )
        for policy in policies
    ]
    return {
        moment: sum(1 for x in scenes for _ in _cancelled_runs(x, schedule, moment, limit))
        for moment in moments
    }


def _cancelled_runs(
    scene: _Scene[Any], schedule: Schedule, moment: Moment, limit: int
) -> Iterator[int]:
    """Yield each step that there was to cancel at; how many a run needs is known at its end."""
    for step in range(1, limit + 1):
        if scene.run_fresh(schedule, [Fault(step, moment)]).steps < step:
            return
        yield step
    raise AssertionError(f"the scenario did not end within {limit} steps")
