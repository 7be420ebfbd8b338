"""The whole program, cancelled at every step: each job is done once or queued, nothing is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from pgq_trio import Context, InMemoryDriver, Job, PgQueuer, Queries
from tests.worker.stores import WatchedDriver, slowly
from tests.worker.tools import claim, in_table
from tests.worker.virtual import Backend, run

#: A program that has not ended after so many steps is not going to.
LIMIT = 5000


class World:
    """One run of the program, and what it left."""

    def __init__(self) -> None:
        self.driver = InMemoryDriver()
        self.slow_driver = WatchedDriver(self.driver)
        self.slow_driver.jobs.before = self.slow_driver.jobs.after = slowly
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


class CancelAt:
    """Cancels a scope before its n-th step, counted from `begin` to `end`."""

    def __init__(self, step: int) -> None:
        self.reached = False
        self._left = step
        self._scope: anyio.CancelScope | None = None

    def begin(self, scope: anyio.CancelScope) -> None:
        self._scope = scope

    def end(self) -> None:
        self._scope = None

    def on_step(self, _: int) -> None:
        if self._scope is None:
            return
        self._left -= 1
        if self._left == 0:
            self.reached = True
            self._scope.cancel()


def run_cancelled_at(backend: Backend, name: str, step: int, seed: int) -> tuple[World, bool]:
    """Run a program that is cancelled before a step; whether it had so many."""
    world = World()
    cancel = CancelAt(step)

    async def main() -> None:
        queries = Queries(world.driver)
        world.ids = await queries.enqueue(["it"] * 8)
        with anyio.CancelScope() as scope:
            cancel.begin(scope)
            await getattr(world, name)()
        cancel.end()
        await world.check(finished=not cancel.reached and name == "program")

    run(backend, main, on_step=cancel.on_step, seed=seed)
    return world, cancel.reached


@pytest.mark.parametrize("name", ["program", "started_program"])
@pytest.mark.parametrize(
    ("backend", "seed"), [("asyncio", 0), *(("trio", seed) for seed in range(5))]
)
def test_cancelled_at_every_step(backend: Backend, seed: int, name: str) -> None:
    for step in range(1, LIMIT):
        try:
            world, reached = run_cancelled_at(backend, name, step, seed)
        except BaseException as exc:
            exc.add_note(f"cancelled before step {step} on {backend}, seed {seed}")
            raise
        if not reached:
            assert sum(world.begun.values()) >= 3
            assert step > 50, "the sweep covered next to nothing"
            return
    raise AssertionError(f"not over after {LIMIT} steps")
