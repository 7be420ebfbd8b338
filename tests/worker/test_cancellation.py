"""Cancelling a job by its id, whatever it does at that moment."""

from __future__ import annotations

import threading

import anyio
import anyio.from_thread
import pytest

from pgq_trio import Context, Job, Settings
from pgq_trio.abc import Claimed
from pgq_trio.model.events import JobEnded
from pgq_trio.testing import Call, UnreliableDriver
from tests.worker.tools import (
    SOON,
    Gate,
    Notes,
    Place,
    Watcher,
    drain,
    in_table,
    outcome,
    running,
    statuses,
    until,
)


async def test_a_queued_job_is_gone_and_never_runs(place: Place) -> None:
    ran: list[int] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.append(job.id)

        ids = await pgq.queries.enqueue(["it"] * 3)
        assert await pgq.queries.mark_job_as_cancelled([ids[1], 10**9]) == {ids[1]}
        assert await pgq.queries.mark_job_as_cancelled([]) == set()
        await drain(pgq)
        assert await statuses(pgq.queries, ids[1]) == ["queued", "canceled"]
    assert ran == [ids[0], ids[2]]


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_running_job_gets_its_scope_cancelled(place: Place, kind: str) -> None:
    entered: Notes[int] = Notes()
    cleaned: list[int] = []
    watcher = Watcher()
    # Asked for by another application, as from another process.
    async with place.open(observers=[watcher]) as pgq, place.open() as elsewhere:

        async def on_loop(job: Job) -> None:
            entered.add(job.id)
            try:
                await anyio.sleep_forever()
            finally:
                cleaned.append(job.id)

        def in_thread(job: Job) -> None:
            anyio.from_thread.run_sync(entered.add, job.id)
            try:
                while True:
                    anyio.from_thread.check_cancelled()
                    threading.Event().wait(0.005)
            finally:
                cleaned.append(job.id)

        pgq.entrypoint("it")(on_loop if kind == "async" else in_thread)
        async with running(pgq):
            ids = await pgq.queries.enqueue(["it"] * 2)
            await entered.until(2)
            assert await elsewhere.queries.mark_job_as_cancelled(ids[0]) == {ids[0]}
            await watcher.until_all(lambda: len(watcher.of(JobEnded)) == 1)
            assert cleaned == [ids[0]]
            assert await in_table(pgq.queries) == {"picked": 1}
            await elsewhere.queries.mark_job_as_cancelled(ids[1])
            await watcher.until_all(lambda: len(watcher.of(JobEnded)) == 2)
        ended = watcher.of(JobEnded)
        assert [event.outcome for event in ended] == ["canceled", "canceled"]
        for job_id in ids:
            assert await statuses(pgq.queries, job_id) == ["queued", "picked", "canceled"]


async def test_a_claimed_job_that_waits_is_not_started(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        async with running(pgq, max_concurrent_jobs=1):
            first, second = await pgq.queries.enqueue(["it"] * 2)
            await gate.entered.until(1)

            async def both_claimed() -> bool:
                return await in_table(pgq.queries) == {"picked": 2}

            await until(both_claimed)
            assert await pgq.queries.mark_job_as_cancelled(second) == {second}

            async def heard() -> bool:
                engine = pgq._core._engine
                assert engine is not None
                assert engine.worker is not None
                lease = engine.worker._leases.get(second)
                return lease is None or lease.cancelled

            await until(heard)
            (third,) = await pgq.queries.enqueue("it")
            gate.open()
            await gate.left.until(2)
        assert gate.entered.entries == [first, third]
        assert await outcome(pgq.queries, second) == "canceled"
        assert await in_table(pgq.queries) == {}


async def test_a_handler_that_returns_in_spite_of_it_harms_nothing(place: Place) -> None:
    """The row is gone already: the late success is refused, and the log says canceled."""
    entered: Notes[int] = Notes()
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq:

        @pgq.entrypoint("it")
        async def stubborn(job: Job, ctx: Context) -> None:
            with anyio.CancelScope(shield=True):
                entered.add(job.id)
                while not ctx.cancellation.cancel_called:
                    await anyio.sleep(0.005)

        async with running(pgq):
            (job_id,) = await pgq.queries.enqueue("it")
            await entered.until(1)
            await pgq.queries.mark_job_as_cancelled(job_id)
            await watcher.until_all(lambda: bool(watcher.of(JobEnded)))
        assert await statuses(pgq.queries, job_id) == ["queued", "picked", "canceled"]
        assert await in_table(pgq.queries) == {}


async def test_900_running_and_waiting_ids_at_once(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        async with running(pgq, max_concurrent_jobs=500):
            ids = await pgq.queries.enqueue(["it"] * 900)
            await gate.entered.until(500)
            assert await pgq.queries.mark_job_as_cancelled(ids) == set(ids)
            await gate.left.until(500)
        assert await in_table(pgq.queries) == {}
        log = await pgq.queries.queue_log()
        assert sum(entry.status == "canceled" for entry in log) == 900


async def test_cancelled_between_the_claim_and_its_reply(place: Place) -> None:
    """The notification comes before the worker knows the job: the heartbeat still finds out."""
    entered: Notes[int] = Notes()
    left = anyio.Event()
    async with place.driver() as driver:
        watched, real = UnreliableDriver(driver), driver.backend(Settings()).jobs

        async def cancel_first(call: Call) -> None:
            if isinstance(call.result, Claimed) and (jobs := call.result.jobs):
                watched.after = None
                await real.cancel([job.id for job in jobs if job.payload is None])

        watched.after = cancel_first
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                entered.add(job.id)
                if job.payload == b"after":
                    return
                try:
                    await anyio.sleep_forever()
                finally:
                    left.set()

            async with running(pgq, heartbeat_timeout=0.3):
                (job_id,) = await pgq.queries.enqueue("it")
                (after,) = await pgq.queries.enqueue("it", b"after")
                await entered.until_all(lambda: after in entered.entries)
                if job_id in entered.entries:
                    with anyio.fail_after(SOON):
                        await left.wait()
            assert await outcome(pgq.queries, job_id) == "canceled"
