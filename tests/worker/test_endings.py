"""Endings that are easy to get wrong: task groups inside of handlers, delays nobody can store."""

from __future__ import annotations

import math
from datetime import timedelta

import anyio
import pytest

from pgq_trio import Context, Job, PgQueuer, RetryRequested
from pgq_trio.errors import PgqError
from tests.worker.tools import Gate, Notes, Place, in_table, outcome, queued_again, running, until


async def fails_in_cleanup() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("in the cleanup of a child")


def with_children(pgq: PgQueuer, entered: Notes[int], timeout: float | None = None) -> None:
    """Register a handler with a task group, one of whose children fails when it is cancelled."""

    @pgq.entrypoint("children", timeout=timeout)
    async def handler(job: Job) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails_in_cleanup)
            tasks.start_soon(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            entered.add(job.id)
            await anyio.sleep_forever()


@pytest.mark.parametrize("cause", ["timeout", "user"])
async def test_a_cancelled_task_group_with_an_error_harms_no_other_job(
    place: Place, cause: str
) -> None:
    entered: Notes[int] = Notes()
    other = Gate()
    async with place.open() as pgq:
        with_children(pgq, entered, timeout=0.1 if cause == "timeout" else None)

        @pgq.entrypoint("other")
        async def handler(job: Job) -> None:
            await other.pass_through(job.id)

        async with running(pgq):
            first, second = await pgq.queries.enqueue(["children", "other"])
            await entered.until(1)
            await other.entered.until(1)
            if cause == "user":
                await pgq.queries.mark_job_as_cancelled(first)

            async def only_the_other() -> bool:
                return await in_table(pgq.queries) == {"picked": 1}

            await until(only_the_other)
            other.open()
            await other.left.until(1)
        expected = "exception" if cause == "timeout" else "canceled"
        assert await outcome(pgq.queries, first) == expected
        assert await outcome(pgq.queries, second) == "successful"


async def test_a_shutdown_with_an_error_in_a_task_group_is_no_outcome(place: Place) -> None:
    entered: Notes[int] = Notes()
    async with place.open() as pgq:
        with_children(pgq, entered)
        (job_id,) = await pgq.queries.enqueue("children")
        async with running(pgq):
            await entered.until(1)
            pgq.request_shutdown(0)
        await queued_again(pgq.queries, "children", [job_id])


@pytest.mark.parametrize("delay", [math.nan, math.inf, -1.0, 1e15], ids=str)
async def test_a_policys_impossible_delay_harms_no_other_job(place: Place, delay: float) -> None:
    class Policy:
        def next_delay(self, job: Job, exception: Exception) -> float | None:
            return delay if job.attempts == 0 and isinstance(exception, ValueError) else None

    async with place.open() as pgq:

        @pgq.entrypoint("odd", retry=Policy())
        async def odd(job: Job) -> None:
            raise ValueError("try again")

        await ends_without_harm(pgq, "odd")


async def test_a_retry_later_than_any_calendar_harms_no_other_job(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("odd")
        async def odd(job: Job) -> None:
            if job.attempts == 0:
                raise RetryRequested(timedelta.max)

        await ends_without_harm(pgq, "odd")


async def ends_without_harm(pgq: PgQueuer, odd: str) -> None:
    """Run a job of this name beside others: those are done once, it is owned by nobody after."""
    ran: Notes[int] = Notes()

    @pgq.entrypoint("fine")
    async def fine(job: Job) -> None:
        ran.add(job.id)
        await anyio.lowlevel.checkpoint()

    names = ["fine", odd, "fine"]
    async with running(pgq):
        ids = await pgq.queries.enqueue(names)

        async def over() -> bool:
            return "picked" not in await in_table(pgq.queries) and len(ran.entries) == 2

        await until(over)
        (later,) = await pgq.queries.enqueue("fine")
        await ran.until(3)
    assert ran.entries == [ids[0], ids[2], later]
    for job_id in ran.entries:
        assert await outcome(pgq.queries, job_id) == "successful"


async def test_an_exception_that_cannot_be_printed_is_recorded(place: Place) -> None:
    class UnprintableError(PgqError):
        def __str__(self) -> str:
            raise ZeroDivisionError

        __repr__ = __str__

    async with place.open() as pgq:

        @pgq.entrypoint("odd")
        async def odd(job: Job) -> None:
            raise UnprintableError

        await ends_without_harm(pgq, "odd")
        log = await pgq.queries.queue_log()
    records = [entry.traceback for entry in log if entry.status == "exception"]
    assert [record and record.exception_type for record in records] == ["UnprintableError"]


async def test_a_cancelled_scope_of_the_handlers_own_is_its_own_business(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("odd")
        async def odd(job: Job, ctx: Context) -> None:
            with anyio.move_on_after(0):
                await anyio.sleep_forever()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                tasks.cancel_scope.cancel()
            assert not ctx.cancellation.cancel_called

        await ends_without_harm(pgq, "odd")
        assert {entry.status for entry in await pgq.queries.queue_log()} == {
            "queued",
            "picked",
            "successful",
        }
