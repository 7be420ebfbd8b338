"""Starting a run: what is refused, what it needs, and when it says that it claims."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from pgq_trio import Job, PgqError, PgQueuer, QueueManager
from pgq_trio.errors import RegistrationError, SchemaMissing
from pgq_trio.model.events import Event, JobEnded, JobStarted
from pgq_trio.testing import UnreliableDriver
from tests.worker.tools import Gate, Notes, Place, Watcher, drain, in_table, outcome, running

REFUSED: list[tuple[type[Exception], dict[str, Any]]] = [
    (ValueError, {"mode": "sometimes"}),
    (ValueError, {"max_concurrent_jobs": 0}),
    (TypeError, {"max_concurrent_jobs": 1.5}),
    (TypeError, {"max_concurrent_jobs": True}),
    (ValueError, {"max_concurrent_tasks": -1}),
    (ValueError, {"batch_size": 0}),
    (TypeError, {"batch_size": "10"}),
    (ValueError, {"dequeue_timeout": -1}),
    (ValueError, {"dequeue_timeout": timedelta(seconds=-1)}),
    (TypeError, {"dequeue_timeout": "30"}),
    (ValueError, {"heartbeat_timeout": 0}),
    (ValueError, {"heartbeat_timeout": float("nan")}),
    (ValueError, {"grace_period": -1}),
    (TypeError, {"grace_period": None}),
    (TypeError, {"no_such_argument": 1}),
]


@pytest.mark.parametrize(("error", "arguments"), REFUSED, ids=str)
async def test_wrong_arguments_are_refused_before_anything_is_claimed(
    error: type[Exception], arguments: dict[str, Any]
) -> None:
    async with PgQueuer.open("memory:") as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

        await pgq.queries.enqueue("it")
        with pytest.raises(error), anyio.fail_after(5):
            await pgq.run(**{"mode": "drain", **arguments})
        with pytest.raises(error):
            await pgq.start(**arguments)
        with pytest.raises(error):
            await pgq.qm.run(**arguments)
        assert await in_table(pgq.queries) == {"queued": 1}
        await drain(pgq)  # and it is none the worse for it
        assert await in_table(pgq.queries) == {}


async def test_nothing_registered(place: Place) -> None:
    async with place.open() as pgq:
        with pytest.raises(RegistrationError):
            await drain(pgq)
        with pytest.raises(RegistrationError):
            await pgq.start()


async def test_a_second_run_is_refused_and_the_first_goes_on(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        async with running(pgq):
            for again in (pgq.run, pgq.start, pgq.qm.run):
                with pytest.raises(PgqError):
                    await again(handle_signals=False)
            (job_id,) = await pgq.queries.enqueue("it")
            await gate.entered.until(1)
            gate.open()
        assert await outcome(pgq.queries, job_id) == "successful"
        await drain(pgq)  # one after another is fine


async def test_run_after_the_block_is_refused(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

    for late in (pgq.run, pgq.start, pgq.qm.run):
        with pytest.raises(PgqError):
            await late(handle_signals=False)


async def test_missing_tables_are_said_before_anything_else(dsn: str) -> None:
    async with PgQueuer.open(dsn) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

        for begin in (pgq.run, pgq.start, pgq.qm.run):
            with pytest.raises(SchemaMissing, match="pgq-trio install"), anyio.fail_after(10):
                await begin(handle_signals=False)
        await pgq.queries.install()  # possible inside of the block
        (job_id,) = await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "successful"


async def test_started_means_that_it_claims(place: Place) -> None:
    """A job enqueued right after `tg.start` runs at once, at the longest dequeue timeout."""
    ran: Notes[float] = Notes()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.add(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(pgq.run, handle_signals=False, dequeue_timeout=3600))
            before = anyio.current_time()
            await pgq.queries.enqueue("it")
            (at,) = await ran.until(1)
            pgq.request_shutdown()
    assert at - before < 1.0


async def test_start_returns_and_leaving_the_block_drains(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        with anyio.fail_after(5):
            await pgq.start(max_concurrent_jobs=3)
        (job_id,) = await pgq.queries.enqueue("it")
        await gate.entered.until(1)
        with pytest.raises(PgqError):
            await pgq.run(handle_signals=False)
        gate.open()
    async with place.open() as later:
        assert await outcome(later.queries, job_id) == "successful"


async def test_an_internal_failure_of_start_comes_out_of_the_block(place: Place) -> None:
    class BrokenError(Exception):
        pass

    async with place.driver() as driver:
        watched = UnreliableDriver(driver)

        async def block() -> None:
            async with Place(watched).open() as pgq:

                @pgq.entrypoint("it")
                async def handler(job: Job) -> None: ...

                watched.fail("claim", BrokenError())
                await pgq.start()
                await anyio.sleep_forever()

        with pytest.raises(BrokenError), anyio.fail_after(10):
            await block()


async def test_without_open(place: Place) -> None:
    resources: dict[str, object] = {}
    async with place.driver() as driver:
        pgq = PgQueuer(driver, resources=resources)
        qm = QueueManager(driver, resources=resources)
        for manager in (pgq, qm):

            @manager.entrypoint("it")
            async def handler(job: Job) -> None:
                assert pgq.resources is qm.resources is resources
                resources[str(job.id)] = True

        with pytest.raises(PgqError, match="open"):
            await pgq.start()
        for run in (pgq.run, qm.run):
            (job_id,) = await pgq.queries.enqueue("it")
            with anyio.fail_after(10):
                await run(mode="drain", handle_signals=False)
            assert resources[str(job_id)]


async def test_observers_get_the_events_and_cannot_harm(place: Place) -> None:
    class Broken:
        def on_event(self, event: Event) -> None:
            raise ZeroDivisionError(f"{event}")

    watcher = Watcher()
    async with place.open(observers=[Broken(), watcher, Broken()]) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            if job.payload == b"fail":
                raise ValueError("as asked")

        ids = await pgq.queries.enqueue(["it"] * 2, [None, b"fail"])
        await drain(pgq, max_concurrent_jobs=1)
        assert await outcome(pgq.queries, ids[0]) == "successful"
        assert await outcome(pgq.queries, ids[1]) == "exception"
    assert [event.job.id for event in watcher.of(JobStarted)] == ids
    ended = watcher.of(JobEnded)
    assert [(event.job.id, event.outcome) for event in ended] == [
        (ids[0], "successful"),
        (ids[1], "exception"),
    ]
    assert ended[0].error is None
    assert isinstance(ended[1].error, ValueError)
    assert all(event.seconds >= 0 for event in ended)


async def test_what_is_no_observer_is_refused() -> None:
    opening: Callable[..., Any] = PgQueuer.open
    with pytest.raises(TypeError):
        async with opening("memory:", observers=[object()]):
            raise AssertionError


async def test_health_follows_the_run(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

        assert pgq.health().status == "stopped"
        async with running(pgq):
            assert pgq.health().status == "ok"
        assert pgq.health().status == "stopped"
