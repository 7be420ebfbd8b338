"""An application whose schedules somebody else pauses, resumes and triggers, on both stores."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import cast

import anyio
import pytest

from pgq_trio import PgQueuer, Queries, Schedule
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.models import ScheduleContext
from pgq_trio.postgres import connect
from tests.conftest import NEWEST_SERVER
from tests.servers import FindServer

RARE = "0 0 29 2 *"
PATIENCE = 20.0
#: The promise is 50 ms, and an idle scheduler looks by itself once a minute: on a loaded machine
#: this still tells one from the other.
PROMPT = 3.0


@pytest.fixture(params=["memory", *NEWEST_SERVER])
async def application(
    request: pytest.FixtureRequest, find_server: FindServer, install_sql: list[str]
) -> AsyncGenerator[tuple[PgQueuer, Queries], None]:
    """An application, and the queries of somebody else on its queue."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            driver = InMemoryDriver()
            pgq = await stack.enter_async_context(PgQueuer.open(driver))
            yield pgq, Queries(driver)
            return
        dsn = stack.enter_context(find_server(request.param).fresh_database(install_sql))
        pgq = await stack.enter_async_context(PgQueuer.open(dsn))
        other = await stack.enter_async_context(await connect(dsn, autocommit=True))
        yield pgq, Queries(PsycopgDriver(other))


async def test_an_idle_application_hears_of_triggers_and_resumptions(
    application: tuple[PgQueuer, Queries],
) -> None:
    pgq, queries = application
    send, ran = anyio.create_memory_object_stream[tuple[float, int]](10)

    @pgq.schedule("report", RARE, misfire="skip")
    async def report(schedule: Schedule, ctx: ScheduleContext) -> None:
        await send.send((time.monotonic(), schedule.id))
        assert ctx.missed == 0

    with anyio.fail_after(PATIENCE), send, ran:
        await pgq.start()
        (row,) = await queries.peek_schedule()
        asked = time.monotonic()
        assert await queries.trigger_schedule(row.id) == {row.id}
        at, schedule_id = await ran.receive()
        assert (schedule_id, at - asked < PROMPT) == (row.id, True)
        assert (await _until_queued(queries)).next_run == row.next_run

        assert await queries.trigger_schedule(entrypoints="report") == {row.id}
        await ran.receive()
        await _until_queued(queries)
        assert await queries.pause_schedule([row.id], ["report"]) == {row.id}
        assert await queries.trigger_schedule(row.id) == set()
        (paused,) = await queries.peek_schedule()
        assert (paused.status, paused.next_run) == ("canceled", row.next_run)
        assert await queries.resume_schedule({row.id}) == {row.id}
        asked = time.monotonic()
        await queries.trigger_schedule(entrypoints=("report",))
        at, _ = await ran.receive()
        assert at - asked < PROMPT
        pgq.request_shutdown()


@pytest.mark.parametrize("wrong", [True, "1", b"1", 1.5, None, [1, "2"], 2**63, [-(2**63) - 1]])
async def test_what_is_no_id_is_refused(
    application: tuple[PgQueuer, Queries], wrong: object
) -> None:
    _, queries = application
    await anyio.lowlevel.checkpoint()
    changes = (queries.delete_schedule, queries.pause_schedule, queries.resume_schedule)
    for change in (*changes, queries.trigger_schedule):
        with pytest.raises((TypeError, ValueError), match=r"of a schedule|ids are"):
            await change(cast("int", wrong))


async def test_a_resumed_schedule_makes_up_at_once_for_what_it_missed(
    application: tuple[PgQueuer, Queries],
) -> None:
    pgq, queries = application
    send, ran = anyio.create_memory_object_stream[tuple[float, int]](10)

    @pgq.schedule("tick", "* * * * * *")
    async def tick(schedule: Schedule, ctx: ScheduleContext) -> None:
        await send.send((time.monotonic(), ctx.missed))
        assert schedule.entrypoint == "tick"

    with anyio.fail_after(PATIENCE), send, ran:
        await pgq.start()
        await ran.receive()
        await queries.pause_schedule(entrypoints="tick")
        before = ran.statistics().current_buffer_used
        await _until_overdue(queries)
        assert ran.statistics().current_buffer_used <= before + 1  # one may have been claimed
        while ran.statistics().current_buffer_used:
            await ran.receive()
        await queries.resume_schedule(entrypoints="tick")
        _, missed = await ran.receive()
        assert missed >= 1
        pgq.request_shutdown()


async def _until_queued(queries: Queries) -> Schedule:
    """Look until no run goes on."""
    while (row := (await queries.peek_schedule())[0]).status != "queued":
        await anyio.sleep(0.005)
    return row


async def _until_overdue(queries: Queries) -> None:
    """Look until two fire times of a schedule that fires every second are missed."""
    while True:
        snapshot = await queries.backend.schedules.snapshot()
        if (snapshot.now - snapshot.schedules[0].next_run).total_seconds() > 1.5:
            return
        await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("ids", "names", "error"),
    [
        ("1", (), TypeError),
        (b"1", (), TypeError),
        (True, (), TypeError),
        ([1, True], (), TypeError),
        (["1"], (), TypeError),
        (None, (), TypeError),
        (1.0, (), TypeError),
        (2**63, (), ValueError),
        ((), b"x", TypeError),
        ((), [1], TypeError),
        ((), None, TypeError),
        ((), "a\x00b", ValueError),
        ((), ["a", "\ud800"], ValueError),
    ],
)
@pytest.mark.parametrize("operation", ["pause", "resume", "trigger", "delete"])
async def test_malformed_arguments_are_refused_before_anything_changes(
    operation: str, ids: object, names: object, error: type[Exception]
) -> None:
    queries = Queries(InMemoryDriver())
    function = getattr(queries, f"{operation}_schedule")
    with pytest.raises(error, match=r"\w"):
        await function(ids, names)
    assert not await function()
    assert not await function([], [])
    assert not await function({1}, {"unknown"})
