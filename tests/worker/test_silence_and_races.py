"""A store that falls silent, replies that come late or never, and asyncio's own cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest

from pgq_trio import InMemoryDriver, Job, PgQueuer, Queries, RetryRequested
from pgq_trio.abc import Claimed, ClaimRequest
from pgq_trio.errors import ConnectionLost
from pgq_trio.testing import Call, UnreliableDriver
from pgq_trio.types import CancelReason
from pgq_trio.worker.leases import Lease, Leases
from tests.worker.tools import Notes, Place, drain, in_table, outcome, running

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def job(**changes: Any) -> Job:
    return replace(
        Job(
            id=1,
            priority=0,
            created=NOW,
            updated=NOW,
            heartbeat=NOW,
            execute_after=NOW,
            status="picked",
            entrypoint="it",
            queue_manager_id=uuid4(),
        ),
        **changes,
    )


@pytest.mark.parametrize("silent", ["finish", "heartbeat"])
async def test_a_statement_without_an_answer_is_sent_again(
    place: Place, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgq_trio.answers.ANSWER_LIMIT", 0.2)
    monkeypatch.setattr("pgq_trio.worker.heartbeat.ANSWER_LIMIT", 0.2)
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        silence = watched.hold(silent)
        async with Place(watched).open() as pgq:
            ran: Notes[int] = Notes()

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                ran.add(job.attempts)
                if silent == "heartbeat":
                    await silence.until_arrived()
                    await anyio.sleep(0.5)

            (job_id,) = await pgq.queries.enqueue("it")
            await drain(pgq, heartbeat_timeout=1.2)
            assert await outcome(pgq.queries, job_id) == "successful"
    assert ran.entries == [0]
    assert watched.calls[silent] >= 2


async def test_a_retry_whose_reply_was_lost_is_not_written_twice(place: Place) -> None:
    attempts: Notes[int] = Notes()
    claimed_again = anyio.Event()
    lost = False
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)

        async def after(call: Call) -> None:
            nonlocal lost
            if isinstance(call.result, Claimed) and any(one.attempts for one in call.result.jobs):
                claimed_again.set()
            elif call.name == "finish" and not lost:
                lost = True
                await claimed_again.wait()
                raise ConnectionLost("after the commit")

        watched.after = after
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                attempts.add(job.attempts)
                if job.attempts == 0:
                    raise RetryRequested(0)

            async with running(pgq):
                await pgq.queries.enqueue("it")
                assert await attempts.until(2) == [0, 1]
            assert await in_table(pgq.queries) == {}
    assert attempts.entries == [0, 1]


def test_a_job_claimed_again_after_its_lease_was_lost_is_a_new_run() -> None:
    leases = Leases()
    again: list[Lease] = []
    leases.when_claimed_again(again.extend)
    (lost,) = leases.add([job()])
    lost.cancel(CancelReason.lease_lost)
    assert leases.add([job(updated=NOW + timedelta(seconds=1))]) == []
    leases.settle(lost, written=True)  # the handler has ended
    assert [one.updated for one in again] == [NOW + timedelta(seconds=1)]
    assert leases.get(1) is again[0]


async def test_the_blocks_error_comes_out_also_when_ending_the_run_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgq_trio.worker.worker.FLUSH_LIMIT", 0.1)
    watched = UnreliableDriver(InMemoryDriver())
    entered = anyio.Event()
    watched.lose("release", "request", times=1000)
    with pytest.raises(ValueError, match="of the block") as caught:
        async with PgQueuer.open(watched) as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                entered.set()
                await anyio.sleep_forever()

            await pgq.queries.enqueue("it")
            await pgq.start()
            await entered.wait()
            raise ValueError("of the block")
    assert any("ConnectionLost" in note for note in caught.value.__notes__)


def test_the_end_of_an_asyncio_loop_is_no_failure_of_a_job() -> None:
    """`asyncio.run` cancels every task natively, runners among them, in any order."""
    tasks: set[asyncio.Task[None]] = set()

    async def main(driver: InMemoryDriver) -> None:
        pgq = PgQueuer(driver)
        started = anyio.Semaphore(0)

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            started.release()
            await anyio.sleep_forever()

        await pgq.queries.enqueue(["it"] * 5)
        tasks.add(asyncio.create_task(pgq.run(handle_signals=False)))
        for _ in range(5):
            await started.acquire()

    for _ in range(10):
        driver = InMemoryDriver()
        asyncio.run(main(driver))
        assert anyio.run(in_table, Queries(driver), backend="asyncio") == {"queued": 5}


def test_asyncios_own_cancel_during_a_claim_leaves_nothing_picked() -> None:
    """Without `open` the caller's task is cancelled natively, which no shield withstands."""
    driver = InMemoryDriver()

    async def main() -> None:
        watched = UnreliableDriver(driver)
        committed = anyio.Event()

        async def after(call: Call) -> None:
            if isinstance(call.result, Claimed) and call.result.jobs:
                committed.set()
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()

        watched.after = after
        pgq = PgQueuer(watched)

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await anyio.sleep_forever()

        await pgq.queries.enqueue("it")
        task = asyncio.create_task(pgq.run(handle_signals=False))
        await committed.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert await in_table(pgq.queries) == {"queued": 1}

    asyncio.run(main())


async def test_an_idle_worker_finds_an_expired_lease_within_its_length(place: Place) -> None:
    """Nobody is told of a lease that expires: the default 30 s between looks would be too long."""
    async with place.open() as pgq:
        ran: Notes[int] = Notes()

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.add(job.attempts)

        await pgq.queries.enqueue("it")
        dead = ClaimRequest(
            queue_manager_id=uuid4(),
            limits={"it": 0},
            batch_size=1,
            limited_batch_size=0,
            heartbeat_timeout=1.0,
        )
        assert len((await pgq.queries.backend.jobs.claim(dead)).jobs) == 1
        with anyio.fail_after(10):
            async with running(pgq, heartbeat_timeout=1.0):
                assert await ran.until(1) == [1]


@pytest.mark.parametrize("heard", ["before the claim's reply", "after it"])
def test_a_user_cancels_the_next_run_while_the_end_of_the_last_is_on_its_way(heard: str) -> None:
    """A retry is written and claimed again, its reply is due: the new run is what is cancelled."""
    leases, again = Leases(), list[Lease]()
    leases.when_claimed_again(again.extend)
    (last,) = leases.add([job()])
    last.ending = True
    claimed = [job(updated=NOW + timedelta(seconds=1), attempts=1)]
    with leases.claiming():
        if heard == "before the claim's reply":
            leases.cancel_for_user(last.job.id)
        assert not leases.add(claimed)
    if heard == "after it":
        leases.cancel_for_user(last.job.id)
    leases.settle(last, written=True)
    assert [(lease.cancelled, lease.reason) for lease in again] == [(True, CancelReason.user)]
