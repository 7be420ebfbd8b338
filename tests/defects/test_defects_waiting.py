"""Defects 9, 14 and 19: what waiting costs, when schedules fire, and no lost wake-up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import anyio
import pytest
from hypothesis import given, strategies as st

from pgq_trio import InMemoryDriver, Job, PgQueuer, Queries, Schedule, ScheduleContext, Settings
from pgq_trio.abc import Claimed, Driver
from pgq_trio.postgres import connect
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Call,
    Fault,
    Simulation,
    UnreliableDriver,
    interleavings,
    simulate,
)
from pgq_trio.worker import claimer
from tests.property.profiles import examples
from tests.worker.tools import Gate, Notes, Place, running, slowly, until

Record = Callable[[str, object], None]

#: The promise is 50 ms; a busy machine of CI gets more. What was measured is recorded.
LATE = 0.5


# ---------------------------------------------------------------------------- 9


@pytest.mark.parametrize("backend", BACKENDS)
def test_defect_09_an_idle_hour(backend: Backend) -> None:
    watched = UnreliableDriver(InMemoryDriver())

    async def main() -> None:
        async with PgQueuer.open(watched) as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None: ...

            async with running(pgq):
                await anyio.sleep(3600)

    simulate(main, backend=backend, max_steps=1_000_000).check()
    assert 3600 / 30 <= watched.calls.total() <= 0.2 * 3600


async def test_defect_09_idle_on_a_real_server(place: Place) -> None:
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None: ...

            async with running(pgq):
                await until(partial(_has_claimed, watched))
                await anyio.sleep(0.2)
                before = watched.calls.total()
                await anyio.sleep(2)
                assert watched.calls.total() == before


async def _has_claimed(watched: UnreliableDriver) -> bool:
    return watched.calls["claim"] >= 1


async def test_defect_09_work_of_others_costs_one_claim_each_at_most(place: Place) -> None:
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        async with Place(watched).open() as pgq, place.open() as elsewhere:

            @pgq.entrypoint("b")
            async def handler(job: Job) -> None: ...

            async with running(pgq):
                await until(partial(_has_claimed, watched))
                before = watched.calls.total()
                for _ in range(50):
                    await elsewhere.queries.enqueue("a")
                marker = await elsewhere.queries.enqueue("b")

                async def caught_up() -> bool:
                    return dict(await pgq.queries.job_status(marker)) == {marker[0]: "successful"}

                await until(caught_up)
                spent = watched.calls.total() - before
            print(f"50 jobs for somebody else cost {spent} statements")
            assert spent <= 50 + 3  # the marker's claim, its outcome and the look after it


async def test_defect_09_wake_ups_during_a_claim_are_one(place: Place) -> None:
    begun: Notes[str] = Notes()
    go_on = anyio.Event()
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)

        async def wait_in_the_second(call: Call) -> None:
            if call.name == "claim":
                begun.add(call.name)
                if len(begun.entries) == 2:
                    await go_on.wait()

        watched.before = wait_in_the_second
        async with Place(watched).open() as pgq, place.open() as elsewhere:

            @pgq.entrypoint("b")
            async def handler(job: Job) -> None: ...

            async with running(pgq):
                await begun.until(1)
                await elsewhere.queries.enqueue("a")
                await begun.until(2)
                for _ in range(50):
                    await elsewhere.queries.enqueue("a")
                await anyio.sleep(0.2)  # the notifications arrive, which the test cannot see
                go_on.set()
                await begun.until(3)
                await anyio.sleep(0.2)
                assert len(begun.entries) == 3


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_defect_09_a_saturated_limit_for_an_hour(backend: Backend, gone: bool) -> None:
    """Three workers wait for one seat; with PgQueuer's trigger they hear of every job's end."""
    driver = InMemoryDriver()
    watched = [UnreliableDriver(driver) for _ in range(3)]

    async def chatter() -> None:
        notifier = driver.backend(Settings()).notifier
        while True:
            await notifier.notify("work", [DELETED])
            await anyio.sleep(0.5)

    async def main() -> None:
        seat = Gate()
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            holder, *waiters = [
                await stack.enter_async_context(PgQueuer.open(each)) for each in (driver, *watched)
            ]
            for pgq in (holder, *waiters):

                @pgq.entrypoint("limited", concurrency_limit=1)
                async def handler(job: Job) -> None:
                    await seat.pass_through(job.id)

            await stack.enter_async_context(running(holder))
            await holder.queries.enqueue("limited")
            await seat.entered.until(1)
            for pgq in waiters:
                await stack.enter_async_context(running(pgq))
            await holder.queries.enqueue(["limited"] * 5)
            if gone:
                tasks.start_soon(chatter)
            await anyio.sleep(3600)
            assert seat.most == 1
            for each in watched:
                assert each.calls.total() <= 0.5 * 3600
            seat.open()
            freed = anyio.current_time()
            await seat.left.until(6)
            assert anyio.current_time() - freed < 0.05
            tasks.cancel_scope.cancel()

    simulate(main, backend=backend, max_steps=1_000_000).check()


@pytest.mark.parametrize("wakes", ["by our notification", "by PgQueuer's trigger"])
async def test_defect_09_a_freed_seat_is_used_by_the_other_worker(
    place: Place, record_property: Record, monkeypatch: pytest.MonkeyPatch, wakes: str
) -> None:
    """The one that has freed it is full; the other one does not find out by looking by itself."""
    monkeypatch.setattr(claimer, "BLOCKED_INITIAL", 3600.0)
    monkeypatch.setattr(claimer, "BLOCKED_MAXIMUM", 3600.0)
    seat, blocked = Gate(), Gate()
    began: Notes[float] = Notes()
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        async with place.open() as full, Place(watched).open() as idle:

            @full.entrypoint("limited", concurrency_limit=1)
            async def hold(job: Job) -> None:
                await seat.pass_through(job.id)

            @full.entrypoint("blocked")
            async def block(job: Job) -> None:
                await blocked.pass_through(job.id)

            @idle.entrypoint("limited", concurrency_limit=1)
            async def wait(job: Job) -> None:
                began.add(anyio.current_time())

            async with running(full, max_concurrent_jobs=1):
                names = ["limited", "blocked", "limited"]
                ids = await full.queries.enqueue(names, priority=[1, 1, 0])
                await seat.entered.until(1)
                async with running(idle, dequeue_timeout=3600):
                    # From now on it looks only when it is told that something has changed.
                    await until(partial(_has_claimed, watched))
                    await _quiet(watched)
                    if wakes == "by our notification":
                        seat.open()
                        await seat.left.until(1)
                    else:
                        await _delete_as_pgqueuer_does(place, driver, ids[0])
                    freed = anyio.current_time()
                    (started,) = await began.until(1)
                blocked.open()
                seat.open()
    lateness = started - freed
    record_property("freed seat", lateness)
    print(f"freed seat: {lateness * 1000:.1f} ms")
    assert lateness <= LATE


async def _quiet(watched: UnreliableDriver) -> None:
    """Wait until a worker does nothing: its first looks follow upon its start and its LISTEN."""
    before = -1
    while before != watched.calls.total():
        before = watched.calls.total()
        await anyio.sleep(0.3)


async def _delete_as_pgqueuer_does(place: Place, driver: Driver, job_id: int) -> None:
    """End a job without our notification; PgQueuer's own trigger sends one of its kind."""
    backend = driver.backend(Settings())
    if isinstance(place.target, str):
        async with await connect(place.target, autocommit=True) as connection:
            await connection.execute("DELETE FROM pgqueuer WHERE id = %s", [job_id])
    else:
        table = backend.jobs._table  # type: ignore[attr-defined]
        table.remove(table.rows[job_id])
    await backend.notifier.notify("work", [DELETED])


DELETED = json.dumps({
    "channel": "ch_pgqueuer", "operation": "delete", "sent_at": "2030-01-01T00:00:00+00:00",
    "table": "pgqueuer", "type": "table_changed_event",
})  # fmt: skip


# ---------------------------------------------------------------------------- 14


async def test_defect_14_once_on_time_over_three_workers(
    place: Place, record_property: Record
) -> None:
    fired: Notes[tuple[datetime, float]] = Notes()
    async with place.open() as one, place.open() as two, place.open() as three:
        for pgq in (one, two, three):

            @pgq.schedule("tick", "* * * * * *")
            async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
                lateness = (datetime.now(UTC) - ctx.fire_time).total_seconds()
                fired.add((ctx.fire_time, lateness))

        async with running(one), running(two), running(three):
            fires = list(await fired.until(3))
    times = Counter(time for time, _ in fires)
    assert set(times.values()) == {1}
    ordered = sorted(times)
    steps = {(b - a).total_seconds() for a, b in pairwise(ordered)}
    assert steps == {1.0}
    worst = max(lateness for _, lateness in fires)
    record_property("schedule", worst)
    print(f"schedule: {worst * 1000:.1f} ms late at worst")
    assert all(-0.001 <= lateness <= LATE for _, lateness in fires)


# ---------------------------------------------------------------------------- 19


async def test_defect_19_work_that_comes_right_after_a_look_is_found(place: Place) -> None:
    """First after a look that found nothing, then after looks that found just what there was."""
    started: Notes[float] = Notes()
    enqueued: list[float] = []
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        async with Place(watched).open() as pgq, place.open() as elsewhere:

            async def enqueue(call: Call) -> None:
                if isinstance(call.result, Claimed) and len(enqueued) < 10:
                    enqueued.append(anyio.current_time())
                    await elsewhere.queries.enqueue("it")
                    # Its notification arrives before the answer does, which sends no event.
                    await anyio.sleep(0.05)

            watched.after = enqueue

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                started.add(anyio.current_time())

            async with running(pgq, dequeue_timeout=3600):
                await started.until(10)
    assert all(b - a < 1 for a, b in zip(enqueued, started.entries, strict=True))


#: More steps than a worker takes from its start to the second time it is idle.
STEPS = 120


def lateness_of_a_job_enqueued_at(
    backend: Backend, step: int, others: int, schedule: tuple[int, ...]
) -> float | None:
    """Run a worker; enqueue at one of its steps. None: it had fewer steps."""
    driver = InMemoryDriver()
    watched = UnreliableDriver(driver)
    watched.before = watched.after = slowly
    reached: list[anyio.Event] = []
    lateness: list[float] = []

    def reach(_: Simulation[None]) -> None:
        for event in reached:
            event.set()

    async def main() -> None:
        done = anyio.Event()
        reached.append(anyio.Event())
        queries = Queries(driver)
        enqueued = 0.0

        async def enqueue() -> None:
            nonlocal enqueued
            await reached[0].wait()
            enqueued = anyio.current_time()
            await queries.enqueue("it", b"late")

        async with PgQueuer.open(watched) as pgq, anyio.create_task_group() as tasks:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                if job.payload == b"late":
                    lateness.append(anyio.current_time() - enqueued)
                    done.set()
                await anyio.lowlevel.checkpoint()

            tasks.start_soon(enqueue)
            await queries.enqueue(["it"] * others)
            async with running(pgq, dequeue_timeout=30):
                with anyio.move_on_after(100):
                    await done.wait()
            tasks.cancel_scope.cancel()

    fault = Fault(step, "before", reach)
    # Taking turns, tasks come between the steps of a look; a schedule adds what is rare.
    simulate(main, backend=backend, schedule=schedule, policy="rotate", faults=[fault]).check()
    return lateness[0] if lateness else None


@pytest.mark.parametrize("backend", BACKENDS)
@examples(150)
@given(
    step=st.integers(1, STEPS),
    others=st.integers(0, 3),
    schedule=interleavings(tasks=5, decisions=80),
)
def test_defect_19_wherever_the_work_comes_it_is_picked_up_at_once(
    backend: Backend, step: int, others: int, schedule: tuple[int, ...]
) -> None:
    lateness = lateness_of_a_job_enqueued_at(backend, step, others, schedule)
    # Virtual seconds: at once, or only after the 30 s of `dequeue_timeout`.
    assert lateness is None or lateness < 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_defect_19_the_property_reaches_the_worker(backend: Backend) -> None:
    """The steps that are drawn are steps that the worker takes."""
    reached = [
        lateness_of_a_job_enqueued_at(backend, step, 1, ()) is not None for step in range(1, 100, 3)
    ]
    assert sum(reached) >= 10
