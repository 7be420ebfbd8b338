"""Handlers that end like a program of their own, and what the worker says of its surroundings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn

import anyio
import anyio.from_thread
import pytest

from pgq_trio import AsyncpgDriver, Job, PgQueuer, PsycopgDriver, Queries, Schedule
from pgq_trio.abc import Driver
from pgq_trio.concurrency.errors import as_failure, unwrapped
from pgq_trio.errors import RegistrationError, StoreError
from pgq_trio.postgres import connect
from pgq_trio.testing import UnreliableDriver
from tests.store.asyncpg_world import asyncpg_connection
from tests.worker.tools import Notes, Place, drain, outcome, running, until


def exits(_job: Job) -> NoReturn:
    sys.exit("bye")


def stops(_job: Job) -> NoReturn:
    raise GeneratorExit


async def exits_later(_job: Job) -> None:
    await anyio.lowlevel.checkpoint()
    sys.exit(3)


async def exits_in_a_child(_job: Job) -> None:
    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        sys.exit(3)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        await anyio.sleep_forever()


@pytest.mark.parametrize("handler", [exits, stops, exits_later, exits_in_a_child])
async def test_sys_exit_ends_the_job_and_nothing_else(
    place: Place, handler: Callable[[Job], object], anyio_backend: str
) -> None:
    if handler is exits_in_a_child and anyio_backend == "asyncio":
        # asyncio raises SystemExit of any task out of the loop itself: the program ends.
        handler = exits_later
    async with place.open() as pgq:
        pgq.entrypoint("exit", on_failure="hold")(handler)

        @pgq.entrypoint("other")
        async def other(_job: Job) -> None:
            await anyio.lowlevel.checkpoint()

        first, second = await pgq.queries.enqueue(["exit", "other"])
        await drain(pgq)
        assert await outcome(pgq.queries, first) == "failed"
        assert await outcome(pgq.queries, second) == "successful"
        (log,) = await pgq.queries.exception_logs()
        assert log.traceback is not None
        assert " raised " in log.traceback.exception_message


async def test_sys_exit_in_a_schedule_ends_its_fire_and_nothing_else(place: Place) -> None:
    async with place.open() as pgq:
        fired: Notes[int] = Notes()

        @pgq.schedule("exit", "0 0 1 1 *")
        def exit_(schedule: Schedule) -> None:
            anyio.from_thread.run_sync(fired.add, schedule.id)
            sys.exit("bye")

        async with running(pgq):
            for count in (1, 2):
                assert await pgq.queries.trigger_schedule(entrypoints=["exit"])
                await fired.until(count)

                async def is_over() -> bool:
                    return {row.status for row in await pgq.queries.peek_schedule()} == {"queued"}

                await until(is_over)


class Cancelled(BaseException):
    """Stands for an event loop's cancellation."""


@pytest.mark.parametrize(
    "exc",
    [
        Cancelled(),
        KeyboardInterrupt(),
        BaseExceptionGroup("both", [SystemExit(), Cancelled()]),
        BaseExceptionGroup("nested", [BaseExceptionGroup("it", [KeyboardInterrupt()])]),
    ],
)
def test_what_comes_from_outside_is_no_failure(exc: BaseException) -> None:
    assert as_failure(exc, Cancelled) is None


async def test_registering_while_it_runs_is_refused(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def it(_job: Job) -> None:
            await anyio.lowlevel.checkpoint()

        async with running(pgq):
            with pytest.raises(RegistrationError, match="register before run"):
                pgq.entrypoint("late")
            with pytest.raises(RegistrationError, match="register before run"):
                pgq.schedule("late", "* * * * *")
        pgq.entrypoint("later")(it)


async def test_a_lost_database_is_worth_a_line_and_so_is_its_return(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgq_trio.engine")
    async with place.driver() as driver:
        connection = UnreliableDriver(driver)
        pgq = PgQueuer(connection)
        done: Notes[int] = Notes()

        @pgq.entrypoint("it")
        async def it(job: Job) -> None:
            done.add(job.id)

        def lines() -> list[str]:
            return [record.getMessage() for record in caplog.records]

        async with running(pgq):
            connection.cut()

            async def is_told() -> bool:
                return any("degraded" in line for line in lines())

            await until(is_told)
            connection.mend()
            await Queries(driver).enqueue("it")
            await done.until(1)

            async def is_well() -> bool:
                return any("there again" in line for line in lines())

            await until(is_well)
        assert len(lines()) == 2


async def test_odd_notifications_are_counted_and_do_not_flood_the_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pgq_trio.engine")
    async with place.open() as pgq:
        done: Notes[int] = Notes()

        @pgq.entrypoint("it")
        async def it(job: Job) -> None:
            done.add(job.id)

        async with running(pgq):
            notifier = pgq.queries.backend.notifier
            for number in range(25):
                await notifier.notify("work", [f"garbage {number}"])
            await pgq.queries.enqueue("it")  # what comes after them has been heard
            await done.until(1)

            async def are_counted() -> bool:
                return len(caplog.records) == 2

            await until(are_counted)
        assert "ignored 1 notifications" in caplog.records[0].getMessage()
        assert "ignored 10 notifications" in caplog.records[1].getMessage()


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
async def test_a_run_ends_with_its_only_connection(
    database: Place, kind: str, anyio_backend: str
) -> None:
    dsn = str(database.target)
    async with AsyncExitStack() as stack:
        connection: Any
        driver: Driver
        if kind == "psycopg" or anyio_backend == "trio":  # asyncpg runs on asyncio only
            connection = await stack.enter_async_context(await connect(dsn, autocommit=True))
            driver = PsycopgDriver(connection)
        else:
            connection = await stack.enter_async_context(asyncpg_connection(dsn))
            driver = AsyncpgDriver(connection)
        pgq = PgQueuer(driver)

        @pgq.entrypoint("it")
        async def it(_job: Job) -> None:
            await anyio.lowlevel.checkpoint()

        with pytest.raises(ExceptionGroup) as caught, anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                await tasks.start(partial(pgq.run, handle_signals=False, dequeue_timeout=0.2))
                await connection.close()
        error = unwrapped(caught.value)
        # Of asyncpg it may be the statement that closing has cancelled.
        assert isinstance(error, StoreError)
