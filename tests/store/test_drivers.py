"""The drivers of `pgq_trio.db`: what they take, what they share; the memory store's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import psycopg
import psycopg_pool
import pytest
import trio
import trio.testing

from pgq_trio.abc import Driver
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.errors import BackendNotSupported
from pgq_trio.postgres import connect
from pgq_trio.settings import Settings
from pgq_trio.store.memory_clock import LoopClock, Ticker
from pgq_trio.store.records import make_job
from pgq_trio.testing import BACKENDS, Backend, simulate
from tests.store.world import ALICE, ManualClock, World, new


class TestPsycopgDriver:
    @pytest.mark.parametrize("target", ["host=x", None, 1, psycopg.Connection, Settings()])
    def test_something_else(self, target: object) -> None:
        with pytest.raises(TypeError, match="open_pool"):
            PsycopgDriver(target)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("kind", "hint"),
        [(psycopg.AsyncConnection, "connect"), (psycopg_pool.AsyncConnectionPool, "open_pool")],
    )
    def test_psycopgs_own(self, kind: type, hint: str) -> None:
        with pytest.raises(BackendNotSupported, match=f"pgq_trio.postgres.{hint}"):
            PsycopgDriver(object.__new__(kind))

    async def test_equal_settings_share_a_store(self, emptied_dsn: str) -> None:
        async with await connect(emptied_dsn) as connection:
            driver = PsycopgDriver(connection)
            assert isinstance(driver, Driver)
            assert driver.backend(Settings()) is driver.backend(Settings())
            assert driver.backend(Settings(prefix="x")) is not driver.backend(Settings())
            assert driver.backend(Settings(prefix="x")).settings == Settings(prefix="x")


class TestInMemoryDriver:
    async def test_equal_settings_share_a_store(self) -> None:
        driver = InMemoryDriver()
        assert isinstance(driver, Driver)
        await driver.backend(Settings()).jobs.enqueue([new()], on_conflict="raise")
        assert len(await driver.backend(Settings()).jobs.queue_size()) == 1
        assert await driver.backend(Settings(prefix="x")).jobs.queue_size() == []
        assert await InMemoryDriver().backend(Settings()).jobs.queue_size() == []

    async def test_the_schema_needs_nothing(self) -> None:
        schema = InMemoryDriver().backend(Settings()).schema
        await schema.install()
        await schema.uninstall()
        assert await schema.verify() == []
        assert await schema.missing() == []

    async def test_every_operation_is_a_checkpoint(self) -> None:
        backend = InMemoryDriver().backend(Settings())
        jobs, schedules, schema = backend.jobs, backend.schedules, backend.schema
        operations = [
            lambda: jobs.enqueue([new()], on_conflict="raise"),
            lambda: jobs.enqueue([], on_conflict="raise"),
            lambda: jobs.finish(ALICE, []),
            lambda: jobs.release(ALICE, []),
            lambda: jobs.heartbeat(ALICE, []),
            lambda: jobs.cancel([]),
            lambda: jobs.requeue([]),
            lambda: jobs.clear(None),
            lambda: jobs.clear_log(None),
            jobs.queue_size,
            jobs.log,
            lambda: jobs.job_status([]),
            lambda: jobs.failed_jobs(limit=1),
            schedules.snapshot,
            schedules.clear,
            schedules.delete,
            lambda: schedules.add([]),
            lambda: schedules.heartbeat([]),
            schema.install,
            schema.uninstall,
            schema.verify,
            schema.missing,
        ]
        for operation in operations:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await operation()
                pytest.fail("no checkpoint")
        assert await jobs.queue_size() == []
        assert await jobs.log() == []

    async def test_a_hundred_thousand_jobs(self) -> None:
        world = _world()
        with anyio.fail_after(30):
            await world.enqueue(*(new("ab"[n % 2], priority=n % 7) for n in range(100_000)))
            done = 0
            while jobs := (await world.claim({"a": 0, "b": 50}, batch=100)).jobs:
                done += len(await world.finish(jobs))
        assert done == 100_000

    async def test_an_idle_claim_looks_at_nothing(self) -> None:
        world = _world()
        await world.enqueue(*(new() for _ in range(20_000)))
        await world.claim({"a": 1})
        with anyio.fail_after(5):
            for _ in range(2000):
                assert (await world.claim({"a": 1})).jobs == []


def _world() -> World:
    clock = ManualClock()
    return World(InMemoryDriver(clock).backend(Settings()), clock.advance)


class TestClock:
    async def test_it_starts_at_wall_time(self) -> None:
        assert abs(LoopClock()() - datetime.now(UTC)) < timedelta(seconds=5)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_it_follows_the_event_loop(self, backend: Backend) -> None:
        clock = LoopClock()

        async def main() -> timedelta:
            begun = clock()
            await anyio.sleep(86_400)
            return clock() - begun

        assert simulate(main, backend=backend).check() == timedelta(days=1)

    def test_it_never_goes_back_from_one_run_to_the_next(self) -> None:
        clock = LoopClock()

        async def main() -> datetime:
            await trio.sleep(86_400)
            return clock()

        # Not simulated: simulations begin at a time of their own.
        first = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

        async def now() -> datetime:
            await anyio.lowlevel.checkpoint()
            return clock()

        second = anyio.run(now, backend="asyncio")
        assert first <= second
        assert second - first < timedelta(seconds=5)

    def test_mock_clock_drives_deferred_jobs(self) -> None:
        async def main() -> list[int]:
            world = World(InMemoryDriver().backend(Settings()), ManualClock().advance)
            await world.enqueue(new(after=timedelta(hours=1)))
            counts = [len((await world.claim()).jobs)]
            await trio.sleep(3601)
            return [*counts, len((await world.claim()).jobs)]

        assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == [0, 1]

    def test_time_passes_between_two_readings(self) -> None:
        clock = ManualClock()
        now = Ticker(clock)
        first, second = now(), now()
        assert second - first == timedelta(microseconds=1)
        clock.time -= timedelta(days=1)
        assert now() > second


def test_a_fast_job_is_a_job() -> None:
    now = datetime.now(UTC)
    row = (1, 2, now, now, "a", b"x", '{"h": [1]}', 3, "k", 4)
    job = make_job(row, "picked", now, now, ALICE)
    assert type(job).__name__ == "Job"
    assert job == type(job)(
        id=1, priority=2, created=now, updated=now, heartbeat=now, execute_after=now,
        status="picked", entrypoint="a", payload=b"x", headers={"h": [1]}, attempts=3,
        queue_manager_id=ALICE, dedupe_key="k", slot=4,
    )  # fmt: skip
    with pytest.raises(AttributeError):
        job.id = 5  # type: ignore[misc]
