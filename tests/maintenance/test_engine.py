"""The housekeeping as a part of a run: when there is one, and what its problems do to health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from pgq_trio import InMemoryDriver, Job, PgQueuer, QueueManager
from pgq_trio.abc import Driver
from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import ConnectionLost
from pgq_trio.maintenance.service import INTERVAL, Maintenance
from pgq_trio.postgres import open_pool
from pgq_trio.settings import Retention, Settings
from pgq_trio.testing import BACKENDS, Backend, Call, UnreliableDriver, simulate
from tests.maintenance.stores import counted, some_history
from tests.servers import OwnServer

#: A day of a worker takes many steps.
MAX_STEPS = 10_000_000

backends = pytest.mark.parametrize("backend", BACKENDS)

#: What the housekeeping asks its store for.
CHORES = {"chores", "fold", "expire"}


def manager(driver: Driver, settings: Settings) -> QueueManager:
    qm = QueueManager(Queries(driver, settings=settings))

    @qm.entrypoint("it")
    async def handler(job: Job) -> None:
        await anyio.lowlevel.checkpoint()

    return qm


@asynccontextmanager
async def running(qm: QueueManager) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(
            lambda *, task_status: qm.run(handle_signals=False, task_status=task_status)
        )
        yield
        qm.request_shutdown()


@backends
def test_a_worker_keeps_the_history_small(backend: Backend) -> None:
    async def main() -> None:
        settings = Settings(retention=Retention(default=3600))
        driver = UnreliableDriver(InMemoryDriver())
        qm = manager(driver, settings)
        async with running(qm):
            await qm.queries.enqueue(["it"] * 10)
            await anyio.sleep(1800)
            assert len(await qm.queries.queue_log()) == 30
            await anyio.sleep(1800 + 3 * INTERVAL)
            assert await qm.queries.queue_log() == []
        assert sum(row.count for row in await qm.queries.log_statistics()) == 30

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_without_a_retention_nothing_is_sent(backend: Backend) -> None:
    async def main() -> None:
        driver = UnreliableDriver(InMemoryDriver())
        qm = manager(driver, Settings())
        async with running(qm):
            await some_history(qm.queries.backend, 1)
            await anyio.sleep(24 * 3600)
        assert not CHORES & driver.calls.keys()

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_a_drain_does_no_housekeeping(backend: Backend) -> None:
    async def main() -> None:
        settings = Settings(retention=0)
        driver = UnreliableDriver(InMemoryDriver())
        qm = manager(driver, settings)

        @qm.entrypoint("long")
        async def handler(job: Job) -> None:
            await anyio.sleep(10 * INTERVAL)

        await qm.queries.enqueue("long")
        await qm.run(mode="drain", handle_signals=False)
        assert not CHORES & driver.calls.keys()

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_health_says_what_keeps_it_from_its_work(backend: Backend) -> None:
    async def main() -> None:
        settings = Settings(retention=0)
        driver = UnreliableDriver(InMemoryDriver())
        qm = manager(driver, settings)

        async def before(call: Call) -> None:
            await anyio.lowlevel.checkpoint()
            if call.name in CHORES:
                raise ConnectionLost("the cable")

        driver.before = before
        async with running(qm):
            await anyio.sleep(3 * INTERVAL)
            health = qm._core.health()
            assert health.status == "degraded"
            assert "the cable" in health.problems["maintenance"]
            driver.before = None
            await anyio.sleep(3 * INTERVAL)
            assert qm._core.health().status == "ok"

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


@backends
def test_it_stops_with_the_run_in_the_middle_of_a_step(backend: Backend) -> None:
    async def main() -> None:
        settings = Settings(retention=0)
        driver = UnreliableDriver(InMemoryDriver())
        qm = manager(driver, settings)
        driver.hold("chores")
        async with running(qm):
            await anyio.sleep(2 * INTERVAL)
            assert driver.calls["chores"] == 1
            began = anyio.current_time()
        assert anyio.current_time() - began < 1

    simulate(main, backend=backend, max_steps=MAX_STEPS).check()


async def test_on_postgresql(installed_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgq_trio.maintenance.service.INTERVAL", 0.05)
    settings = Settings(retention=Retention(default=0))
    async with PgQueuer.open(installed_dsn, settings=settings) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await anyio.lowlevel.checkpoint()

        await pgq.start()
        await pgq.queries.enqueue(["it"] * 100)
        while await pgq.queries.queue_size() or await pgq.queries.queue_log(limit=1):
            await anyio.lowlevel.checkpoint()
        assert sum(row.total_count for row in await pgq.queries.throughput_summary()) == 300
        assert pgq.health().status == "ok"


async def test_a_server_that_goes_away_and_comes_back(
    own_server: OwnServer, install_sql: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgq_trio.maintenance.service.INTERVAL", 0.2)
    problems: list[str | None] = []
    lost, well = anyio.Event(), anyio.Event()

    def on_problem(problem: str | None) -> None:
        problems.append(problem)
        if problem is not None:
            lost.set()
        elif lost.is_set():
            well.set()

    with own_server.fresh_database(install_sql) as dsn:
        async with open_pool(dsn, autocommit=True) as pool, anyio.create_task_group() as tasks:
            backend = PsycopgDriver(pool).backend(Settings())
            service = Maintenance(backend.insights, Retention(default=0), on_problem=on_problem)
            await tasks.start(service.run)
            await anyio.to_thread.run_sync(own_server.stop)
            await lost.wait()
            await anyio.to_thread.run_sync(own_server.start)
            await well.wait()
            await some_history(backend, 10)
            while await backend.jobs.log(limit=1):
                await anyio.lowlevel.checkpoint()
            assert await counted(backend) == 20
            tasks.cancel_scope.cancel()
