"""Running a scenario under one schedule, under all of them, and cancelled at each of its steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args

from pgq_trio.testing.decisions import Decisions, Policy, Schedule
from pgq_trio.testing.on_asyncio import run_on_asyncio
from pgq_trio.testing.on_trio import run_on_trio
from pgq_trio.testing.simulation import Backend, Fault, Moment, Simulation
from pgq_trio.testing.threads import Threads, threads_as

__all__ = ["cancel_everywhere", "explore", "simulate"]

R = TypeVar("R")

_RUN = {"trio": run_on_trio, "asyncio": run_on_asyncio}


def simulate(
    scenario: Callable[..., Awaitable[R]],
    *args: object,
    backend: Backend = "trio",
    schedule: Schedule = (),
    policy: Policy = "stay",
    faults: Iterable[Fault] = (),
    threads: Threads = "refuse",
    max_steps: int = 100_000,
) -> Simulation[R]:
    """Run a scenario once, its tasks in the given order, on a clock that jumps.

    No real time passes: when no task can run, the clock jumps to the next deadline. Real I/O has
    no place in a scenario, since the clock does not wait for it.

    Args:
        scenario: an async function; its tasks are those it starts in nurseries or task groups.
        *args: its arguments.
        backend: "trio" or "asyncio".
        schedule: which task goes next, decision by decision; `interleavings()` draws them.
        policy: who goes when the schedule says nothing.
        faults: what happens at which step.
        threads: what becomes of `anyio.to_thread.run_sync`: "refuse" or "inline".
        max_steps: more than that is a `Livelock`.

    Returns:
        the run; nothing was raised yet: `check()` does, and returns what the scenario returned.

    Raises:
        ValueError: an argument that cannot be.
    """
    if backend not in _RUN:
        raise ValueError(f"backend is one of {', '.join(get_args(Backend))}, got {backend!r}")
    simulation: Simulation[R] = Simulation(
        backend=backend,
        schedule=tuple(schedule),
        decisions=Decisions(schedule, policy=policy),
        faults=list(faults),
        max_steps=max_steps,
    )
    with threads_as(threads, simulation):
        _RUN[backend](simulation, lambda: scenario(*args))
    return simulation


def explore(
    scenario: Callable[..., Awaitable[R]],
    *,
    make: Callable[[], Any] | None = None,
    check: Callable[..., object] | None = None,
    backend: Backend = "trio",
    preemptions: int | None = 2,
    policy: Policy = "stay",
    threads: Threads = "refuse",
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
        threads: see `simulate`.
        limit: runs at most.

    Returns:
        how many runs there were.

    Raises:
        AssertionError: there are more schedules than the limit allows.
        Whatever the scenario or `check` raises first, with the schedule that leads to it.
    """
    prefix: tuple[int, ...] = ()
    for run in range(1, limit + 1):
        world = () if make is None else (make(),)
        simulation = simulate(
            scenario, *world, backend=backend, schedule=prefix, policy=policy, threads=threads
        )
        _judge(simulation, check, world)
        following = _next_prefix(simulation, preemptions)
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
    policy: Policy = "stay",
    threads: Threads = "refuse",
    limit: int = 10_000,
) -> dict[Moment, int]:
    """Run a scenario again and again, cancelled at its first step, its second, until it ends first.

    Args:
        scenario: an async function.
        make: makes a fresh world for each run, which the scenario and `check` get.
        check: called after each run with the world, if there is one, and the `Simulation`; raises
            when something is wrong.
        backend: "trio" or "asyncio".
        moments: "before" a step cancels at the task's next checkpoint, "in flight" cancels the
            operation that the step began.
        schedule: see `simulate`.
        policy: see `simulate`.
        threads: see `simulate`.
        limit: steps at most.

    Returns:
        how many steps there were to cancel at, for each moment.

    Raises:
        AssertionError: the scenario did not end within the limit.
        Whatever the scenario raises other than its cancellation, and what `check` raises.
    """
    return {
        moment: sum(
            1
            for _ in _cancelled_runs(
                lambda fault: _run_fresh(
                    scenario, make, check, fault, backend, schedule, policy, threads
                ),
                moment,
                limit,
            )
        )
        for moment in moments
    }


def _cancelled_runs(
    run: Callable[[Fault], Simulation[Any]], moment: Moment, limit: int
) -> Iterator[int]:
    """Yield each step that there was to cancel at; how many a run needs is known at its end."""
    for step in range(1, limit + 1):
        if run(Fault(step, moment)).steps < step:
            return
        yield step
    raise AssertionError(f"the scenario did not end within {limit} steps")


def _run_fresh(
    scenario: Callable[..., Awaitable[R]],
    make: Callable[[], Any] | None,
    check: Callable[..., object] | None,
    fault: Fault,
    backend: Backend,
    schedule: Schedule,
    policy: Policy,
    threads: Threads,
) -> Simulation[R]:
    world = () if make is None else (make(),)
    simulation = simulate(
        scenario,
        *world,
        backend=backend,
        schedule=schedule,
        policy=policy,
        faults=[fault],
        threads=threads,
    )
    try:
        _judge(simulation, check, world)
    except BaseException as exc:
        if simulation.steps >= fault.step:
            task = simulation.trace[fault.step - 1]
            exc.add_note(f"cancelled {fault.moment} step {fault.step}, one of task {task!r}")
        raise
    return simulation


def _judge(
    simulation: Simulation[Any], check: Callable[..., object] | None, world: tuple[Any, ...]
) -> None:
    simulation.check()
    if check is None:
        return
    try:
        check(*world, simulation)
    except BaseException as exc:
        exc.add_note(simulation.replay())
        raise
