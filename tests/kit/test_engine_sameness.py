"""The same scenario under the same schedule is the same run, step by step, in any process."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
from hypothesis import given, strategies as st

from pgq_trio import InMemoryDriver, Schedule
from pgq_trio.testing import BACKENDS, Backend, Simulation, interleavings, simulate
from tests.kit.engine_worlds import backends
from tests.property.profiles import examples
from tests.property.queue_worlds import BEHAVIOURS, Fleet

Run = Simulation[list[float]]


def whole_workers(backend: Backend, schedule: Sequence[int]) -> Run:
    """Run three workers with retries, limits, heartbeats, schedules and a shutdown."""
    fleet = Fleet(limit=2)
    workers = [fleet.application() for _ in range(3)]

    async def scenario() -> list[float]:
        await fleet.queries.enqueue(["plain", "limited"] * 4, [*BEHAVIOURS] * 2, [*range(4)] * 2)
        async with anyio.create_task_group() as tasks:
            for number, pgq in enumerate(workers):

                @pgq.schedule("tick", "* * * * * 0,20,40")
                async def tick(_schedule: Schedule) -> None:
                    await anyio.lowlevel.checkpoint()

                async def run(number: int = number) -> None:
                    await workers[number].run(handle_signals=False, heartbeat_timeout=3)

                tasks.start_soon(run, name=f"worker {number}")
            await anyio.sleep(50)
            for pgq in workers:
                pgq.request_shutdown(0)
        return [fleet.started[job_id] for job_id in sorted(fleet.started)]

    return simulate(scenario, backend=backend, schedule=schedule)


@backends
@examples(8)
@given(schedule=interleavings(tasks=6, decisions=100))
def test_in_one_process(backend: Backend, schedule: tuple[int, ...]) -> None:
    first, second = (whole_workers(backend, schedule) for _ in range(2))
    assert first.check() == second.check()
    assert first.trace == second.trace
    assert whole_workers(backend, first.picks).trace == first.trace


def test_in_other_processes() -> None:
    """Their sets have other orders, and their objects other addresses."""
    told = {
        subprocess.run(
            [sys.executable, "-m", "tests.kit.test_engine_sameness"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    (trace,) = told
    assert len(trace) > 10_000


@backends
@given(seed=st.integers(0, 2**32))
@examples(5)
def test_chance_is_seeded_and_left_alone(backend: Backend, seed: int) -> None:
    async def scenario() -> list[float]:
        await anyio.lowlevel.checkpoint()
        return [random.random() for _ in range(3)]

    outside = random.getstate()
    first = simulate(scenario, backend=backend, seed=seed).check()
    assert simulate(scenario, backend=backend, seed=seed).check() == first
    assert simulate(scenario, backend=backend, seed=seed + 1).check() != first
    assert random.getstate() == outside


@backends
def test_a_queue_in_memory_begins_at_midnight(backend: Backend) -> None:
    async def scenario() -> datetime:
        queries = Fleet(driver=InMemoryDriver()).queries
        (job,) = await queries.enqueue("plain")
        (listed,) = await queries.browse_queue(limit=10)
        assert listed.id == job
        return listed.created

    created = simulate(scenario, backend=backend).check()
    assert (created.hour, created.minute, created.second) == (0, 0, 0)
    assert 0 <= (datetime.now(UTC) - created).total_seconds() < 2 * 86_400


def main() -> None:
    """Print how runs went, for `test_in_other_processes`."""
    logging.disable()
    schedule = [random.Random(number).choice([0, 0, 0, 1, 2]) for number in range(100)]
    print(json.dumps([whole_workers(backend, schedule).trace for backend in BACKENDS]))


if __name__ == "__main__":
    main()
