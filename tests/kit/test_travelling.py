"""Time travel in memory: what is due runs at once, and what runs goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from pgq_trio import Job, PgQueuer, RetryRequested, Schedule
from pgq_trio.models import ScheduleContext
from pgq_trio.testing import TimeTravel, UnreliableDriver, drain

#: For what must happen at once, or the clock of the event loop would have moved it.
SOON = 10.0


class World:
    """A queue in memory, its clock, and workers on it."""

    def __init__(self) -> None:
        self.time_travel = TimeTravel()
        self.ran: list[int] = []
        self.has_run = anyio.Event()

    def application(self) -> PgQueuer:
        pgq = PgQueuer(self.time_travel.driver)
        pgq.entrypoint("note")(self.note)
        return pgq

    async def note(self, job: Job) -> None:
        self.ran.append(job.id)
        self.has_run.set()


async def test_what_is_due_then_is_drained() -> None:
    world = World()
    pgq = world.application()
    early, late = await pgq.queries.enqueue(["note"] * 2, execute_after=[3600, 7200])
    assert await drain(pgq) == {}
    world.time_travel(hours=1)
    assert list(await drain(pgq)) == [early]
    world.time_travel(timedelta(minutes=59), minutes=1)
    assert list(await drain(pgq)) == [late]


async def test_a_retry_comes_when_its_delay_is_over() -> None:
    world = World()
    pgq = world.application()

    @pgq.entrypoint("busy")
    async def busy(job: Job) -> None:
        if job.attempts < 2:
            raise RetryRequested(delay=60)

    (job_id,) = await pgq.queries.enqueue("busy")
    for _ in range(2):
        outcomes = await drain(pgq)
        assert outcomes.retried.keys() == {job_id}
        world.time_travel(60)
    assert (await drain(pgq))[job_id].status == "successful"


async def test_an_idle_worker_wakes_at_once() -> None:
    world = World()
    pgq = world.application()
    (job_id,) = await pgq.queries.enqueue("note", execute_after=7 * 86_400)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pgq.run)
        await anyio.wait_all_tasks_blocked()
        world.time_travel(days=7)
        with anyio.fail_after(SOON):
            await world.has_run.wait()
        pgq.request_shutdown()
    assert world.ran == [job_id]


async def test_a_scheduler_wakes_at_once() -> None:
    world = World()
    pgq = world.application()
    fires: list[datetime] = []

    @pgq.schedule("nightly", "0 3 * * *")
    async def nightly(_schedule: Schedule, context: ScheduleContext) -> None:
        fires.append(context.fire_time)
        world.has_run.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(pgq.run)
        await anyio.wait_all_tasks_blocked()
        three = (world.time_travel.now() + timedelta(days=2)).replace(
            hour=3, minute=0, second=0, microsecond=0
        )
        world.time_travel.to(three)
        with anyio.fail_after(SOON):
            await world.has_run.wait()
        pgq.request_shutdown()
    assert fires == [three]


@pytest.mark.parametrize("keep_leases", [True, False])
async def test_jobs_that_run_go_on_or_are_rescued(keep_leases: bool) -> None:
    world = World()
    connection = UnreliableDriver(world.time_travel.driver)
    first, second = PgQueuer(connection), PgQueuer(world.time_travel.driver)
    attempts: list[int] = []
    goes_on = anyio.Event()

    @first.entrypoint("long")
    async def long(job: Job) -> None:
        attempts.append(job.attempts)
        world.has_run.set()
        await goes_on.wait()

    @second.entrypoint("long")
    async def short(job: Job) -> None:
        attempts.append(job.attempts)

    (job_id,) = await first.queries.enqueue("long")
    async with anyio.create_task_group() as tasks:
        await tasks.start(first.run)
        await world.has_run.wait()
        connection.cut()  # or the first one would rescue it itself
        world.time_travel(hours=1, keep_leases=keep_leases)
        outcomes = await drain(second)
        connection.mend()
        goes_on.set()
        first.request_shutdown()
    assert attempts == ([0] if keep_leases else [0, 1])
    assert list(outcomes) == ([] if keep_leases else [job_id])
    assert await first.queries.job_status(job_id) == [(job_id, "successful")]


class Hourly:
    """A schedule that stops half way, until it is let go."""

    def __init__(self, world: World) -> None:
        self.pgq = PgQueuer(world.time_travel.driver)
        self.pgq.schedule("hourly", "0 * * * *")(self.fire)
        self.fires = 0
        self.has_fired = anyio.Event()
        self.goes_on = anyio.Event()

    async def fire(self, _schedule: Schedule) -> None:
        self.fires += 1
        self.has_fired.set()
        await self.goes_on.wait()

    async def row(self) -> Schedule:
        (row,) = await self.pgq.queries.peek_schedule()
        return row


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_schedule_that_runs_keeps_its_lease(is_paused: bool) -> None:
    world = World()
    hourly = Hourly(world)
    async with anyio.create_task_group() as tasks:
        await tasks.start(hourly.pgq.run)
        world.time_travel(hours=1)
        with anyio.fail_after(SOON):
            await hourly.has_fired.wait()
        if is_paused:
            await hourly.pgq.queries.pause_schedule(entrypoints=["hourly"])
        world.time_travel(minutes=30)
        if is_paused:
            await hourly.pgq.queries.resume_schedule(entrypoints=["hourly"])
        row = await hourly.row()
        assert row.status == "picked"
        assert world.time_travel.now() - row.heartbeat < timedelta(minutes=15)
        hourly.goes_on.set()
        hourly.pgq.request_shutdown()
    assert hourly.fires == 1
    assert (await hourly.row()).status == "queued"


async def test_a_schedule_that_is_paused_and_does_not_run_gets_no_lease() -> None:
    world = World()
    hourly = Hourly(world)
    hourly.goes_on.set()
    async with anyio.create_task_group() as tasks:
        await tasks.start(hourly.pgq.run)
        world.time_travel(hours=1)
        with anyio.fail_after(SOON):
            await hourly.has_fired.wait()
        hourly.pgq.request_shutdown()
    await hourly.pgq.queries.pause_schedule(entrypoints=["hourly"])
    world.time_travel(hours=1)
    await hourly.pgq.queries.resume_schedule(entrypoints=["hourly"])
    assert (await hourly.row()).status == "queued"


async def test_all_stores_on_the_driver_travel() -> None:
    time_travel = TimeTravel()
    pgq = PgQueuer(time_travel.driver)
    (job_id,) = await pgq.queries.enqueue("note", execute_after=60)
    before = await pgq.queries.queue_job_by_id(job_id)
    time_travel(60)
    (age,) = await pgq.queries.queue_age()
    assert before is not None
    assert time_travel.now() >= before.execute_after
    assert age.entrypoint == "note"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "time goes forward"),
        ({"hours": -1}, "time goes forward"),
        ({"by": -1}, "at least 0 s"),
        ({"by": timedelta(hours=1), "hours": -1}, "time goes forward"),
    ],
)
def test_no_way_back(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeTravel()(**arguments)


async def test_points_in_time_that_cannot_be() -> None:
    time_travel = TimeTravel()
    with pytest.raises(ValueError, match="needs a zone"):
        time_travel.to(datetime(2100, 1, 1))  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="time goes forward"):
        time_travel.to(datetime(2000, 1, 1, tzinfo=UTC))
