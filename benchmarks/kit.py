"""How many runs the test kit makes in a second of CPU time: drawn, explored and cancelled ones.

`python -m benchmarks.kit` prints a line for each event loop. What is asked of the kit is 200
examples a second of a scenario with two tasks and 500 cancelled runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import process_time
from typing import get_args

import anyio
import anyio.lowlevel
from hypothesis import HealthCheck, Phase, given, settings

from pgq_trio.testing import Backend, cancel_everywhere, explore, interleavings, simulate


class Counter:
    """What two tasks add to."""

    def __init__(self) -> None:
        self.value = 0

    async def add(self) -> None:
        """Add one, and make a few steps."""
        self.value += 1
        for _ in range(3):
            await anyio.lowlevel.checkpoint()


async def two_tasks(counter: Counter) -> None:
    """The scenario."""
    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            tasks.start_soon(counter.add, name=name)


def examples(backend: Backend, count: int) -> int:
    """Draw and run so many examples."""
    options = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    runs = 0

    @options
    @given(schedule=interleavings())
    def test(schedule: tuple[int, ...]) -> None:
        nonlocal runs
        runs += 1
        counter = Counter()
        simulate(two_tasks, counter, schedule=schedule, backend=backend).check()
        assert counter.value == 2

    test()
    return runs


def explored(backend: Backend, count: int) -> int:
    """Run all schedules, again and again, until there are so many."""
    runs = 0
    while runs < count:
        runs += explore(two_tasks, make=Counter, preemptions=None, backend=backend)
    return runs


def cancelled(backend: Backend, count: int) -> int:
    """Cancel at each step, again and again, until there are so many runs."""
    runs = 0
    while runs < count:
        steps = cancel_everywhere(two_tasks, make=Counter, backend=backend, policies=["stay"])
        runs += sum(steps.values()) + len(steps)  # the last run of each finds no step
    return runs


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    count = parser.parse_args().runs
    kinds: dict[str, Callable[[Backend, int], int]] = {
        "examples/s": examples,
        "explored/s": explored,
        "cancelled/s": cancelled,
    }
    print(" " * 8 + "".join(f"{kind:>14}" for kind in kinds))
    for backend in get_args(Backend):
        row = f"{backend:8}"
        for run in kinds.values():
            run(backend, 10)
            began = process_time()
            runs = run(backend, count)
            row += f"{runs / (process_time() - began):14.0f}"
        print(row)


if __name__ == "__main__":
    main()
