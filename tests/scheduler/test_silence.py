"""A server that falls silent: every statement has a limit, so that it is noticed as lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import pytest

from pgq_trio.abc import NewSchedule, ScheduleStore
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.model.events import Event, HealthChanged, ScheduleEnded
from pgq_trio.models import Schedule, ScheduleContext
from pgq_trio.postgres import connect, open_pool
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from pgq_trio.testing import BACKENDS, Backend, UnreliableDriver, simulate
from tests.conftest import NEWEST_SERVER
from tests.scheduler.tools import Log, add_due, row, scheduler
from tests.servers import Binaries, FindServer

RARE = "0 0 29 2 *"

backends = pytest.mark.parametrize("backend", BACKENDS)


def memory() -> tuple[InMemoryDriver, ScheduleStore]:
    """An empty queue in memory, on the clock of the event loop, and its schedules table."""
    driver = InMemoryDriver()
    return driver, driver.backend(Settings()).schedules


def changes(events: Sequence[Event]) -> list[str | None]:
    """What kept the scheduler from its store, in order."""
    return [event.problem for event in events if isinstance(event, HealthChanged)]


@backends
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("operation", ["snapshot", "claim", "finish", "heartbeat"])
def test_a_statement_without_an_answer_is_sent_again(
    backend: Backend, operation: str, times: int
) -> None:
    async def main() -> None:
        driver, store = memory()
        watched, events = UnreliableDriver(driver), list[Event]()
        registry, ran = ScheduleRegistry(), list[datetime]()

        async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
            ran.append(ctx.fire_time)
            await anyio.sleep(12)

        registry.add("work", "* * * * *", work)
        one = scheduler(watched, registry, events.append)
        async with anyio.create_task_group() as tasks:
            await tasks.start(one.run)
            first = (await row(store)).next_run
            silence = watched.hold(operation, times=times)
            await anyio.sleep(300)
            tasks.cancel_scope.cancel()
        assert silence.arrived == times
        assert ran[0] == first
        assert ran == sorted(set(ran))
        assert len(ran) >= 3
        problem, *_, end = changes(events)
        assert problem is not None
        assert "no answer within" in problem
        assert end is None

    simulate(main, backend=backend).check()


@backends
@pytest.mark.parametrize("operation", ["snapshot", "add", "delete"])
def test_it_starts_although_a_statement_is_not_answered(backend: Backend, operation: str) -> None:
    async def main() -> None:
        driver, store = memory()
        watched = UnreliableDriver(driver)
        registry = ScheduleRegistry()
        await store.add([NewSchedule("work", "1 1 1 1 *", datetime(2099, 1, 1, tzinfo=UTC))])

        async def work(schedule: Schedule) -> None:
            await anyio.lowlevel.checkpoint()

        registry.add("work", RARE, work, clean_old=True)
        watched.hold(operation)
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(12):
                await tasks.start(scheduler(watched, registry).run)
            tasks.cancel_scope.cancel()
        assert (await row(store)).expression == RARE

    simulate(main, backend=backend).check()


@backends
@pytest.mark.parametrize("silent", [1, 2, 1000])
def test_a_fire_is_never_run_twice_at_once(backend: Backend, silent: int) -> None:
    async def main() -> None:
        driver, store = memory()
        cut_off, events = UnreliableDriver(driver), list[Event]()
        cut_off.hold("heartbeat", times=silent)
        running: list[str] = []
        started: list[str] = []
        at_once: list[int] = []

        def app(name: str) -> ScheduleRegistry:
            registry = ScheduleRegistry()

            async def work(schedule: Schedule) -> None:
                running.append(name)
                started.append(name)
                at_once.append(len(running))
                try:
                    await anyio.sleep(200)
                finally:
                    running.remove(name)

            registry.add("work", RARE, work)
            return registry

        await add_due(store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(cut_off, app("cut off"), events.append).run)
            while not started:
                await anyio.lowlevel.checkpoint()
            await tasks.start(scheduler(store, app("other")).run)
            await anyio.sleep(600)
            tasks.cancel_scope.cancel()
        assert {*at_once} == {1}
        errors = [event.error for event in events if isinstance(event, ScheduleEnded)]
        if silent < 1000:
            assert started == ["cut off"]
            assert errors == [None]
        else:
            assert len(started) > 1
            assert "no heartbeat of schedule 'work' was answered for 30 s" in str(errors[0])

    simulate(main, backend=backend).check()


@backends
def test_a_run_that_cleans_up_after_its_lease_is_run_again_but_not_meanwhile(
    backend: Backend,
) -> None:
    async def main() -> None:
        driver, store = memory()
        watched, events = UnreliableDriver(driver), list[Event]()
        watched.hold("heartbeat", times=5)  # up to some seconds after the lease
        runs: list[tuple[float, float]] = []
        registry = ScheduleRegistry()

        async def work(schedule: Schedule) -> None:
            began = anyio.current_time()
            try:
                await anyio.sleep(100)
            finally:
                with anyio.move_on_after(50, shield=not runs):
                    await anyio.sleep_forever()
                runs.append((began, anyio.current_time()))

        registry.add("work", RARE, work)
        await add_due(store, "work", RARE)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler(watched, registry, events.append).run)
            await tasks.start(scheduler(store, ScheduleRegistry()).run)
            await anyio.sleep(300)
            tasks.cancel_scope.cancel()
        (first, cleaned_up), (again, end) = runs
        assert cleaned_up - first == pytest.approx(80, abs=1)
        assert again == pytest.approx(cleaned_up, abs=1)
        assert end - again == pytest.approx(150, abs=1)
        errors = [event.error for event in events if isinstance(event, ScheduleEnded)]
        assert [error is None for error in errors] == [False, True]

    simulate(main, backend=backend).check()


@pytest.mark.parametrize("server", NEWEST_SERVER)
async def test_a_server_that_keeps_a_look_waiting(
    server: Binaries | str,
    find_server: FindServer,
    install_sql: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgq_trio.answers.ANSWER_LIMIT", 0.3)
    send, told = anyio.create_memory_object_stream[Event](100)
    registry, log = ScheduleRegistry(), Log()

    async def work(schedule: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        log.add(ctx.fire_time)

    registry.add("work", RARE, work)
    with find_server(server).fresh_database(install_sql) as dsn:
        async with (
            open_pool(dsn, autocommit=True) as pool,
            await connect(dsn) as other,
            anyio.create_task_group() as tasks,
            send,
            told,
        ):
            store = PsycopgDriver(pool).backend(Settings()).schedules
            one = scheduler(store, registry, send.send_nowait)
            await tasks.start(one.run)
            await other.execute(b"LOCK TABLE pgqueuer_schedules")
            one.notify()
            with anyio.fail_after(30):
                assert "no answer within 0.3 s" in str(await told.receive())
                await other.execute(b"UPDATE pgqueuer_schedules SET next_run = now()")
                await other.commit()
                await log.until(1)
            one.stop()
