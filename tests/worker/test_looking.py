"""When a worker looks for work while some of what is due is not to be had."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import anyio
import pytest

from pgq_trio import InMemoryDriver, Job, PgQueuer, Settings
from pgq_trio.abc import JobStore
from pgq_trio.model.outcomes import SUCCESSFUL, Claim, Finished
from pgq_trio.models import Job as JobRecord
from pgq_trio.testing import BACKENDS, Backend, Call, UnreliableDriver, simulate
from pgq_trio.worker import claimer
from tests.worker.tools import Gate, Notes, Place, claim, running

#: Seconds by which a job may start late in virtual time.
LATE = 0.05

#: Seconds after which a blocked worker's looks are as rare as they get.
LONG = 60.0

STRANGER = uuid4()

DELETED = json.dumps({
    "channel": "ch_pgqueuer", "operation": "delete", "sent_at": "2030-01-01T00:00:00+00:00",
    "table": "pgqueuer", "type": "table_changed_event",
})  # fmt: skip


class Bench:
    """A worker with a limited entrypoint whose handler waits; and maybe one without a limit."""

    def __init__(self, limit: int = 1, *, ticks: bool = True) -> None:
        self.limit = limit
        self.has_ticks = ticks
        self.driver = InMemoryDriver()
        self.watched = UnreliableDriver(self.driver)
        self.looks: Notes[float] = Notes()
        self.began: Notes[float] = Notes()
        self.ticks: Notes[float] = Notes()
        self.gate = Gate()

    @property
    def store(self) -> JobStore:
        return self.driver.backend(Settings()).jobs

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[PgQueuer, None]:
        """Run it; asked to stop, it is not kept by its handlers."""

        async def note(call: Call) -> None:
            if call.name == "claim":
                self.looks.add(anyio.current_time())

        self.watched.before = note
        async with PgQueuer.open(self.watched) as pgq:

            @pgq.entrypoint("limited", concurrency_limit=self.limit)
            async def limited(job: Job) -> None:
                self.began.add(anyio.current_time())
                await self.gate.pass_through(job.id)

            async def tick(job: Job) -> None:
                self.ticks.add(anyio.current_time())

            if self.has_ticks:
                pgq.entrypoint("tick")(tick)

            # Whoever else has a job is not to be thought dead.
            async with running(pgq, dequeue_timeout=3600, heartbeat_timeout=3600):
                yield pgq
                self.gate.open()

    async def occupy(self) -> list[JobRecord]:
        """Take seats as a worker of PgQueuer that knows no limit: its jobs have no slot."""
        return await claim(
            self.store, ["limited"], queue_manager_id=STRANGER, batch_size=self.limit
        )

    async def vacate(self, job: JobRecord) -> None:
        """End such a job; the store tells nobody, since it had no slot."""
        done = Finished(Claim(job.id, job.updated), SUCCESSFUL)
        assert await self.store.finish(STRANGER, [done]) == {job.id}

    def looks_since(self, time: float) -> int:
        return sum(look >= time for look in self.looks.entries)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_deferred_job_is_on_time_while_a_limit_is_saturated(backend: Backend) -> None:
    bench = Bench()
    lateness: list[float] = []

    async def main() -> None:
        async with bench.worker() as pgq:
            await pgq.queries.enqueue(["limited"] * 2)
            await bench.began.until(1)
            await anyio.sleep(LONG)
            for number in range(20):
                due = anyio.current_time() + 1.5
                await pgq.queries.enqueue("tick", execute_after=timedelta(seconds=1.5))
                await bench.ticks.until(number + 1)
                lateness.append(bench.ticks.entries[-1] - due)

    simulate(main, backend=backend).check()
    assert max(lateness) < LATE


@pytest.mark.parametrize("backend", BACKENDS)
def test_deferred_jobs_of_a_saturated_limit_cost_no_looks(backend: Backend) -> None:
    bench = Bench()

    async def main() -> None:
        async with bench.worker() as pgq:
            await pgq.queries.enqueue(["limited"] * 2)
            await bench.began.until(1)
            delays = [timedelta(seconds=LONG + 0.1 * n) for n in range(1000)]
            await pgq.queries.enqueue(
                ["limited"] * 1000, [None] * 1000, [0] * 1000, execute_after=delays
            )
            await anyio.sleep(LONG)
            begun = anyio.current_time()
            await anyio.sleep(100)
            assert bench.looks_since(begun) <= 0.5 * 100

    simulate(main, backend=backend).check()


async def test_a_deferred_job_is_not_kept_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real time on each store: what is blocked would not be looked at for an hour."""
    monkeypatch.setattr(claimer, "BLOCKED_INITIAL", 3600.0)
    monkeypatch.setattr(claimer, "BLOCKED_MAXIMUM", 3600.0)
    gate = Gate()
    ticks: Notes[int] = Notes()
    async with place.open() as pgq:

        @pgq.entrypoint("limited", concurrency_limit=1)
        async def limited(job: Job) -> None:
            await gate.pass_through(job.id)

        @pgq.entrypoint("tick")
        async def tick(job: Job) -> None:
            ticks.add(job.id)

        async with running(pgq, dequeue_timeout=3600):
            await pgq.queries.enqueue(["limited"] * 2)
            await gate.entered.until(1)
            ids = await pgq.queries.enqueue("tick", execute_after=timedelta(seconds=0.5))
            assert await ticks.until(1) == ids
            gate.open()
            await gate.left.until(2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_looks_are_frequent_again_when_a_limit_saturates_again(backend: Backend) -> None:
    bench = Bench()

    async def main() -> None:
        async with bench.worker() as pgq:
            for _ in range(2):
                await pgq.queries.enqueue(["limited"] * 2)
                held = await bench.occupy()
                saturated = anyio.current_time()
                await anyio.sleep(1)
                assert bench.looks_since(saturated) >= 5
                await anyio.sleep(LONG)
                # Both jobs go without the worker having had one of them: nothing is due then.
                await bench.vacate(held[0])
                [other] = await bench.occupy()
                await bench.vacate(other)
                await anyio.sleep(LONG)

    simulate(main, backend=backend).check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hint_counts_again_after_one_that_led_to_a_job(backend: Backend) -> None:
    """Seats that a worker of PgQueuer frees: just its trigger tells, and jobs keep waiting."""
    bench = Bench(limit=2, ticks=False)

    async def main() -> None:
        async with bench.worker() as pgq:
            await pgq.queries.enqueue(["limited"] * 6)
            held = await bench.occupy()
            notifier = bench.driver.backend(Settings()).notifier
            await anyio.sleep(LONG)
            assert bench.began.entries == []
            await bench.vacate(held[0])
            await notifier.notify("work", [DELETED])
            await bench.began.until(1)
            await anyio.sleep(0.5)
            await bench.vacate(held[1])
            freed = anyio.current_time()
            await notifier.notify("work", [DELETED])
            await bench.began.until(2)
            assert bench.began.entries[1] - freed < LATE

    simulate(main, backend=backend).check()
