"""Plain `def` handlers: in worker threads, with a way to async resources and to cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import anyio.from_thread
import pytest

from pgq_trio import Context, InMemoryDriver, Job, PgQueuer, Queries, Schedule, ScheduleContext
from tests.resources.test_cancelled_outside import server_in
from tests.resources.tools import RARE, make_due, traceback_of, with_server
from tests.worker.tools import (
    SOON,
    Notes,
    Place,
    drain,
    outcome,
    queued_again,
    running,
    statuses,
    until,
)


async def test_it_runs_in_a_thread_and_reaches_an_async_resource(place: Place) -> None:
    loop_thread = threading.get_ident()
    threads: list[int] = []
    answers: list[int] = []
    async with place.open(resources=with_server) as pgq:

        @pgq.entrypoint("it")
        def handler(job: Job, ctx: Context) -> None:
            threads.append(threading.get_ident())
            answers.append(anyio.from_thread.run(server_in(ctx).ask, 21))

        @pgq.schedule("schedule", RARE)
        def schedule(schedule: Schedule, ctx: ScheduleContext) -> None:
            threads.append(threading.get_ident())
            answers.append(anyio.from_thread.run(server_in(ctx).ask, 1))
            pgq.request_shutdown()

        await pgq.queries.enqueue("it")
        await drain(pgq)
        await make_due(pgq, "schedule")
        with anyio.fail_after(SOON):
            await pgq.run(handle_signals=False)
    assert answers == [42, 2]
    assert loop_thread not in threads


async def test_the_async_resource_runs_on_the_event_loops_thread(place: Place) -> None:
    where: list[int] = []

    async def note() -> None:
        await anyio.lowlevel.checkpoint()
        where.append(threading.get_ident())

    async with place.open() as pgq:

        @pgq.entrypoint("it")
        def handler(job: Job) -> None:
            anyio.from_thread.run(note)

        await pgq.queries.enqueue("it")
        await drain(pgq)
    assert where == [threading.get_ident()]


async def test_threads_run_in_parallel_beyond_anyios_default(place: Place) -> None:
    """`max_concurrent_jobs` is reached by `def` handlers too; AnyIO's own limiter stops at 40."""
    barrier = threading.Barrier(60, timeout=SOON)
    together: list[int] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        def handler(job: Job) -> None:
            barrier.wait()
            together.append(job.id)

        await pgq.queries.enqueue(["it"] * 60)
        await drain(pgq, max_concurrent_jobs=60)
    assert len(together) == 60


async def test_threads_are_bounded(place: Place) -> None:
    lock, now, most = threading.Lock(), 0, 0
    step = threading.Barrier(4, timeout=SOON)
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        def handler(job: Job) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            step.wait()
            with lock:
                now -= 1

        await pgq.queries.enqueue(["it"] * 20)
        await drain(pgq, max_concurrent_jobs=4)
    assert most == 4


async def test_a_blocked_thread_keeps_its_lease(place: Place) -> None:
    """A handler that blocks for longer than the lease is not taken over: others renew it."""
    release, attempts = threading.Event(), Notes[int]()
    async with place.open() as pgq, place.open() as other:
        for app in (pgq, other):

            @app.entrypoint("it")
            def handler(job: Job) -> None:
                anyio.from_thread.run_sync(attempts.add, job.attempts)
                assert release.wait(SOON)

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        async with running(pgq, heartbeat_timeout=0.3, dequeue_timeout=0.05):
            await attempts.until(1)
            async with running(other, heartbeat_timeout=0.3, dequeue_timeout=0.05):
                # Time has to pass here: nothing is to happen for three leases.
                await anyio.sleep(0.9)
                assert attempts.entries == [0]
            release.set()
        assert await outcome(pgq.queries, job_id) == "successful"


# Cancellation


async def by_id(pgq: PgQueuer, job_id: int, scope: anyio.CancelScope) -> None:
    await pgq.queries.mark_job_as_cancelled([job_id])


async def by_context(pgq: PgQueuer, job_id: int, scope: anyio.CancelScope) -> None:
    pgq.qm.get_context(job_id).cancellation.cancel()
    await anyio.lowlevel.checkpoint()


async def by_outer_scope(pgq: PgQueuer, job_id: int, scope: anyio.CancelScope) -> None:
    scope.cancel()
    await anyio.lowlevel.checkpoint()


async def by_shutdown(pgq: PgQueuer, job_id: int, scope: anyio.CancelScope) -> None:
    pgq.request_shutdown(0)
    await anyio.lowlevel.checkpoint()


def looking(started: Callable[[], None]) -> None:
    """Work in pieces and look in between."""
    anyio.from_thread.run_sync(started)
    give_up = threading.Event()
    while not give_up.wait(0.005):
        anyio.from_thread.check_cancelled()


def waiting(started: Callable[[], None]) -> None:
    """Wait for something async for ever.

    It has begun when the cancellation comes: on asyncio AnyIO 4.16 does not cancel what a thread
    begins after its scope was cancelled, and then there is no end to it.
    """

    async def wait() -> None:
        started()
        await anyio.sleep_forever()

    anyio.from_thread.run(wait)


@pytest.mark.parametrize("work", [looking, waiting])
@pytest.mark.parametrize("cancel", [by_id, by_context, by_outer_scope, by_shutdown])
async def test_it_sees_the_cancellation_of_its_job(
    place: Place, cancel: Callable[..., object], work: Callable[[Callable[[], None]], None]
) -> None:
    begun = Notes[int]()
    loop_thread = threading.get_ident()
    outcome_seen: list[str] = []
    job_id: int | None = None
    with anyio.CancelScope() as scope:
        async with place.open() as pgq:

            @pgq.entrypoint("it")
            def handler(job: Job) -> None:
                assert threading.get_ident() != loop_thread
                try:
                    work(lambda: begun.add(job.id))
                except BaseException as exc:
                    outcome_seen.append(type(exc).__name__)
                    raise
                else:
                    outcome_seen.append("returned")

            (job_id,) = await pgq.queries.enqueue("it")
            await pgq.start()
            await begun.until(1)
            await cancel(pgq, job_id, scope)  # type: ignore[misc]
            if cancel is not by_outer_scope:
                await until(lambda: ended_in(outcome_seen))
    (how,) = outcome_seen
    assert "Cancelled" in how  # CancelledError on asyncio, Cancelled on Trio
    async with place.open() as later:
        assert job_id is not None
        if cancel in (by_outer_scope, by_shutdown):
            await queued_again(later.queries, "it", [job_id])
        else:
            assert await outcome(later.queries, job_id) == "canceled"


async def ended_in(notes: list[str]) -> bool:
    await anyio.lowlevel.checkpoint()
    return bool(notes)


async def test_it_sees_its_timeout(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it", timeout=0.05)
        def handler(job: Job) -> None:
            looking(lambda: None)

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "exception"
        assert "JobTimeout" in await traceback_of(pgq.queries, job_id)


# The classic mistake


class Client:
    """An async resource."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, text: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(text)


def client_in(ctx: Context | ScheduleContext) -> Client:
    client = ctx.resources["client"]
    assert isinstance(client, Client)
    return client


async def failure(queries: Queries, job_id: int) -> str:
    """What a job that failed says about it."""
    assert (await statuses(queries, job_id))[-1] == "exception"
    return await traceback_of(queries, job_id)


async def test_a_coroutine_that_nobody_awaited_fails_the_job_and_says_what_to_do(
    place: Place,
) -> None:
    client = Client()
    async with place.open(resources={"client": client}) as pgq:

        @pgq.entrypoint("wrong")
        def wrong(job: Job, ctx: Context) -> object:
            return client_in(ctx).send("never")

        @pgq.entrypoint("wrong later")
        def also_wrong(job: Job, ctx: Context) -> object:
            coroutine: object = client_in(ctx).send("never")
            return coroutine

        @pgq.entrypoint("right")
        def right(job: Job, ctx: Context) -> None:
            anyio.from_thread.run(client_in(ctx).send, "from a thread")

        ids = await pgq.queries.enqueue(["wrong", "wrong later", "right"])
        await drain(pgq)
        for job_id in ids[:2]:
            assert job_id is not None
            text = await failure(pgq.queries, job_id)
            assert "anyio.from_thread.run" in text
            assert "async def" in text  # the other way out
            assert "coroutine" in text
        assert ids[2] is not None
        assert await outcome(pgq.queries, ids[2]) == "successful"
    # That no RuntimeWarning "never awaited" came is what `filterwarnings = error` sees to.
    assert client.sent == ["from a thread"]


async def test_a_held_job_keeps_the_advice(place: Place) -> None:
    async with place.open(resources={"client": Client()}) as pgq:

        @pgq.entrypoint("wrong", on_failure="hold")
        def wrong(job: Job, ctx: Context) -> object:
            return client_in(ctx).send("never")

        (job_id,) = await pgq.queries.enqueue("wrong")
        assert job_id is not None
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "failed"
        assert "anyio.from_thread.run" in await traceback_of(pgq.queries, job_id)


async def test_the_same_mistake_in_a_schedule_does_not_stop_the_others(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    client, right_ran = Client(), anyio.Event()
    async with place.open(resources={"client": client}) as pgq:

        @pgq.schedule("wrong", RARE)
        def wrong(schedule: Schedule, ctx: ScheduleContext) -> object:
            return client_in(ctx).send("never")

        @pgq.schedule("right", RARE)
        def right(schedule: Schedule, ctx: ScheduleContext) -> None:
            anyio.from_thread.run(client_in(ctx).send, "from a thread")
            anyio.from_thread.run_sync(right_ran.set)

        await make_due(pgq, "wrong", "right")
        async with running(pgq):
            with anyio.fail_after(SOON):
                await right_ran.wait()
            await until(lambda: logged(caplog))
    assert client.sent == ["from a thread"]


async def logged(caplog: pytest.LogCaptureFixture) -> bool:
    await anyio.lowlevel.checkpoint()
    return "anyio.from_thread.run" in caplog.text


async def test_handlers_that_return_an_awaitable_on_purpose_are_awaited() -> None:
    """An `async def` behind a partial or in a callable is not that mistake."""
    client = Client()
    pgq = PgQueuer(InMemoryDriver(), resources={"client": client})

    class Sender:
        async def __call__(self, job: Job, ctx: Context) -> None:
            await client_in(ctx).send("by a callable")

    pgq.entrypoint("it")(Sender())
    await pgq.queries.enqueue("it")
    await drain(pgq)
    assert client.sent == ["by a callable"]


async def test_a_sync_context_manager_as_a_resource_works_in_threads(place: Place) -> None:
    """What needs no event loop is used directly, under a lock of the user's."""
    counts: dict[str, object] = {"lock": threading.Lock(), "count": 0}
    async with place.open(resources=counts) as pgq:

        @pgq.entrypoint("it")
        def handler(job: Job, ctx: Context) -> None:
            lock = ctx.resources["lock"]
            assert isinstance(lock, type(threading.Lock()))
            with lock:
                count = ctx.resources["count"]
                assert isinstance(count, int)
                ctx.resources["count"] = count + 1

        await pgq.queries.enqueue(["it"] * 30)
        await drain(pgq)
        assert pgq.resources["count"] == 30
