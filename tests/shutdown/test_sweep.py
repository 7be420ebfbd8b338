"""The whole program, cancelled at every step: each job is done once or queued, nothing is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given, strategies as st

from pgq_trio import Context, InMemoryDriver, Job, PgQueuer, Queries
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Fault,
    Moment,
    Policy,
    Simulation,
    UnreliableDriver,
    cancel_everywhere,
    interleavings,
    simulate,
)
from tests.property.profiles import examples
from tests.worker.tools import claim, in_table

MOMENTS: tuple[Moment, ...] = ("before", "in flight")
POLICIES: tuple[Policy, ...] = ("stay", "rotate")


class World:
    """One run of the program, and what it left."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.driver = InMemoryDriver()
        self.slow_driver = UnreliableDriver(self.driver)
        self.story: list[str] = []
        self.begun: Counter[int] = Counter()
        self.completed: Counter[int] = Counter()
        self.active = 0
        self.ids: list[int] = []

    @asynccontextmanager
    async def resources(self) -> AsyncGenerator[dict[str, object], None]:
        self.story.append("open")
        try:
            await anyio.lowlevel.checkpoint()
            yield {"world": self}
        finally:
            self.story.append("close")

    async def handler(self, job: Job, ctx: Context) -> None:
        assert ctx.resources["world"] is self
        assert self.story[-1] != "close"
        self.begun[job.id] += 1
        self.active += 1
        try:
            for _ in range(job.id % 4):
                await anyio.lowlevel.checkpoint()
            if job.id % 4 == 3:
                await anyio.sleep(1)
            self.completed[job.id] += 1
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.story.append("job ended")
            self.active -= 1

    async def fill(self) -> None:
        """Put jobs in the queue."""
        self.ids = await Queries(self.driver).enqueue(["it"] * 8)

    async def run(self) -> None:
        """Run the program of this name."""
        await (self.program if self.name == "program" else self.started_program)()

    async def program(self) -> None:
        """Open, run what is due, close."""
        async with PgQueuer.open(self.slow_driver, resources=self.resources) as pgq:
            pgq.entrypoint("it")(self.handler)
            await pgq.run(mode="drain", max_concurrent_jobs=3, handle_signals=False)

    async def started_program(self) -> None:
        """The same, in the background, left normally while jobs run."""
        async with PgQueuer.open(self.slow_driver, resources=self.resources) as pgq:
            pgq.entrypoint("it")(self.handler)
            await pgq.start(max_concurrent_jobs=3, grace_period=0.5)
            await anyio.sleep(0.1)

    async def check(self, *, finished: bool) -> None:
        """Look at what is left when the program is over."""
        queries = Queries(self.driver)
        assert self.active == 0
        assert self.story.count("open") == self.story.count("close")
        assert not self.story or self.story[-1] == "close"
        assert (await in_table(queries)).keys() <= {"queued"}
        left = await claim(queries.backend.jobs, ["it"])
        queued = {job.id: job.attempts for job in left}
        assert set(queued.values()) <= {0}
        done = Counter(
            entry.job_id for entry in await queries.queue_log() if entry.status == "successful"
        )
        for job_id in self.ids:
            assert done[job_id] + (job_id in queued) == 1, job_id
            # What a handler finished is done, what it did not finish is not.
            assert self.completed[job_id] == done[job_id]
            assert self.begun[job_id] <= 1
        if finished:
            assert not queued


def filled(name: str) -> World:
    """A world in which a program is to run, with jobs in its queue."""
    world = World(name)
    simulate(world.fill).check()
    return world


def check(world: World, simulation: Simulation[None]) -> None:
    """Look at what a run has left, cancelled or not."""

    async def look() -> None:
        await world.check(finished=not simulation.cancelled and world.name == "program")

    simulate(look, backend=simulation.backend).check()


@pytest.mark.parametrize("name", ["program", "started_program"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_at_every_step(backend: Backend, policy: Policy, name: str) -> None:
    worlds: list[World] = []

    def make() -> World:
        worlds.append(filled(name))
        return worlds[-1]

    steps = cancel_everywhere(World.run, make=make, check=check, backend=backend, policies=[policy])
    assert min(steps.values()) > 50, "the sweep covered next to nothing"
    assert sum(worlds[-1].begun.values()) >= 3


@pytest.mark.parametrize("name", ["program", "started_program"])
@pytest.mark.parametrize("backend", BACKENDS)
@examples(60)
@given(
    schedule=interleavings(tasks=6, decisions=100),
    policy=st.sampled_from(POLICIES),
    step=st.integers(1, 120),
    moment=st.sampled_from(MOMENTS),
)
def test_cancelled_in_any_order(
    backend: Backend,
    name: str,
    schedule: tuple[int, ...],
    policy: Policy,
    step: int,
    moment: Moment,
) -> None:
    world = filled(name)
    simulation = simulate(
        world.run, backend=backend, schedule=schedule, policy=policy, faults=[Fault(step, moment)]
    )
    simulation.check()
    check(world, simulation)
