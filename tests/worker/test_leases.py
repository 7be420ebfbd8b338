"""Heartbeats keep a job, silence loses it, and a lost job is stopped with nothing written."""

from __future__ import annotations

import threading
from uuid import UUID

import anyio
import anyio.from_thread
import pytest

from pgq_trio import Context, Job, RetryRequested
from pgq_trio.model.events import JobEnded, JobInterrupted, OutcomeRefused
from pgq_trio.model.outcomes import Claim
from pgq_trio.testing import UnreliableDriver
from pgq_trio.types import CancelReason
from tests.worker.tools import (
    Notes,
    Place,
    Watcher,
    claim,
    drain,
    in_table,
    outcome,
    running,
    statuses,
)

#: A lease short enough for a test, long enough for a busy machine.
LEASE = 0.6


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_long_job_is_kept_beyond_its_lease(place: Place, kind: str) -> None:
    started: Notes[int] = Notes()
    async with place.open() as pgq, place.open() as rival:

        async def on_loop(job: Job) -> None:
            started.add(job.id)
            await anyio.sleep(3 * LEASE)

        def in_thread(job: Job) -> None:
            anyio.from_thread.run_sync(started.add, job.id)
            threading.Event().wait(3 * LEASE)

        pgq.entrypoint("it")(on_loop if kind == "async" else in_thread)

        @rival.entrypoint("it")
        async def steal(job: Job) -> None:
            raise AssertionError("the lease never expired")

        async with running(rival, heartbeat_timeout=LEASE, dequeue_timeout=0.05):
            pass  # it knows the name, and may run again
        (job_id,) = await pgq.queries.enqueue("it")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: drain(pgq, heartbeat_timeout=LEASE))
            await started.until(1)
            async with running(rival, heartbeat_timeout=LEASE, dequeue_timeout=0.05):
                await anyio.sleep(2 * LEASE)
        assert await statuses(pgq.queries, job_id) == ["queued", "picked", "successful"]


async def test_a_dead_workers_job_is_taken_over_and_counted(place: Place) -> None:
    ran: Notes[Job] = Notes()
    dead = UUID(int=1)
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.add(job)

        (job_id,) = await pgq.queries.enqueue("it")
        (claimed,) = await claim(pgq.queries.backend.jobs, ["it"], queue_manager_id=dead)
        assert claimed.queue_manager_id == dead
        began = anyio.current_time()
        async with running(pgq, heartbeat_timeout=LEASE, dequeue_timeout=0.05):
            (job,) = await ran.until(1)
            assert anyio.current_time() - began > LEASE / 2
        assert (job.id, job.attempts) == (job_id, 1)
        assert job.queue_manager_id not in {None, dead}
        assert await outcome(pgq.queries, job_id) == "successful"


async def test_a_live_workers_job_is_left_alone(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            raise AssertionError("its owner lives")

        await pgq.queries.enqueue("it")
        await claim(pgq.queries.backend.jobs, ["it"])
        await drain(pgq, heartbeat_timeout=60)
        assert await in_table(pgq.queries) == {"picked": 1}


async def test_a_lost_lease_cancels_the_job_and_nothing_is_written(place: Place) -> None:
    entered: Notes[Context] = Notes()
    watcher = Watcher()
    thief = UUID(int=7)
    async with place.open(observers=[watcher]) as pgq:
        store = pgq.queries.backend.jobs

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            entered.add(ctx)
            await anyio.sleep_forever()

        async with running(pgq, heartbeat_timeout=LEASE):
            (job_id,) = await pgq.queries.enqueue("it")
            (context,) = await entered.until(1)
            (stolen,) = await claim(store, ["it"], queue_manager_id=thief, heartbeat_timeout=0)
            await watcher.until_all(lambda: bool(watcher.of(JobInterrupted)))
            assert context.cancellation.cancel_called
        (event,) = watcher.of(JobInterrupted)
        assert (event.job.id, event.reason) == (job_id, CancelReason.lease_lost)
        assert not watcher.of(JobEnded)
        # Claimed, claimed by the thief; not a word from the one who lost it.
        assert await statuses(pgq.queries, job_id) == ["queued", "picked", "picked"]
        assert await in_table(pgq.queries) == {"picked": 1}
        assert stolen.attempts == 1
        owned = await store.heartbeat(thief, [Claim(stolen.id, stolen.updated)])
        assert owned == {job_id}


@pytest.mark.parametrize("end", ["return", "raise", "retry"])
async def test_a_late_outcome_is_refused_and_said(place: Place, end: str) -> None:
    entered = anyio.Event()
    stolen = anyio.Event()
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            entered.set()
            await stolen.wait()
            if end == "raise":
                raise ValueError(end)
            if end == "retry":
                raise RetryRequested(0)

        async with running(pgq):
            (job_id,) = await pgq.queries.enqueue("it")
            await entered.wait()
            await claim(pgq.queries.backend.jobs, ["it"], heartbeat_timeout=0)
            stolen.set()
            await watcher.until_all(lambda: bool(watcher.of(OutcomeRefused)))
        (event,) = watcher.of(OutcomeRefused)
        assert event.job.id == job_id
        assert await statuses(pgq.queries, job_id) == ["queued", "picked", "picked"]
        assert await in_table(pgq.queries) == {"picked": 1}


async def test_heartbeats_go_on_after_the_store_failed_for_a_while(place: Place) -> None:
    done = anyio.Event()
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        watched.lose("heartbeat", "request", times=2)
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                while watched.calls["heartbeat"] < 5:
                    await anyio.sleep(0.01)
                done.set()

            (job_id,) = await pgq.queries.enqueue("it")
            async with running(pgq, heartbeat_timeout=LEASE):
                await done.wait()
            assert await statuses(pgq.queries, job_id) == ["queued", "picked", "successful"]


async def test_no_heartbeat_is_sent_without_a_job(place: Place) -> None:
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None: ...

            async with running(pgq, heartbeat_timeout=0.1):
                await anyio.sleep(0.3)
            assert watched.calls["heartbeat"] == 0
