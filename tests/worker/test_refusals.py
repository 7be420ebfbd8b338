"""One bad record, one lost reply, one unlucky order of events never touches another job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import anyio
import pytest

from pgq_trio import Job, RetryRequested
from pgq_trio.abc import Claimed
from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.model.outcomes import Finished
from pgq_trio.testing import Call, UnreliableDriver
from tests.worker.tools import SOON, Gate, Notes, Place, drain, in_table, outcome, running


@pytest.mark.parametrize("times", ["once", "always"])
async def test_a_record_the_store_refuses_touches_no_other(place: Place, times: str) -> None:
    ran: list[int] = []
    refused: list[int] = []
    marked: list[int] = []
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)

        async def refuse(call: Call) -> None:
            if call.name != "finish" or (times == "once" and refused):
                return
            batch = cast("Sequence[Finished]", call.arguments["finished"])
            bad = [x for x in batch if x.claim.job_id in marked and x.outcome.traceback is not None]
            if bad:
                refused.append(len(batch))
                raise StoreError("the record cannot be stored")

        watched.before = refuse
        async with Place(watched).open() as pgq:
            gate = Gate()

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                ran.append(job.id)
                await gate.pass_through(job.id)
                if job.payload == b"bad":
                    raise ValueError("this one")

            payloads = [b"bad" if n == 13 else None for n in range(40)]
            ids = await pgq.queries.enqueue(["it"] * 40, payloads)
            marked.append(ids[13])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(drain, pgq)
                await gate.entered.until(40)
                gate.open()  # all end together: one batch
            assert sorted(ran) == ids
            assert refused
            ends = {job_id: await outcome(pgq.queries, job_id) for job_id in ids}
            assert ends.pop(ids[13]) == "exception"
            assert set(ends.values()) == {"successful"}
            assert await in_table(pgq.queries) == {}


async def test_a_lost_reply_to_an_outcome_runs_nothing_twice(place: Place) -> None:
    """The statement took effect, the reply was lost: it is repeated, and that changes nothing."""
    ran: list[int] = []
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        watched.lose("finish", "reply")
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                ran.append(job.id)

            ids = await pgq.queries.enqueue(["it"] * 10)
            await drain(pgq)
            log = await pgq.queries.queue_log()
    assert sorted(ran) == ids
    assert sorted(entry.job_id for entry in log if entry.status == "successful") == ids


async def test_a_retry_claimed_before_its_own_reply_runs(place: Place) -> None:
    """The retry is committed and claimed again before the worker hears that it was written."""
    attempts: Notes[int] = Notes()
    claimed_again = anyio.Event()
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        holding = False

        async def after(call: Call) -> None:
            nonlocal holding
            if call.name == "finish" and not holding:
                holding = True
                with anyio.move_on_after(SOON):
                    await claimed_again.wait()
            elif isinstance(call.result, Claimed) and any(job.attempts for job in call.result.jobs):
                claimed_again.set()  # perhaps even before the reply of `finish` is held

        watched.after = after
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                attempts.add(job.attempts)
                if job.attempts == 0:
                    raise RetryRequested(0)

            async with running(pgq):
                (job_id,) = await pgq.queries.enqueue("it")
                assert await attempts.until(2) == [0, 1]
            assert await outcome(pgq.queries, job_id) == "successful"
            assert await in_table(pgq.queries) == {}


async def test_a_claim_without_a_reply_is_no_lost_job(place: Place) -> None:
    """The claim took effect, the reply was lost: the rows are ours, and rescued by their lease."""
    ran: Notes[int] = Notes()
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)

        async def lose(call: Call) -> None:
            if isinstance(call.result, Claimed) and call.result.jobs and not ran.entries:
                watched.after = None
                raise ConnectionLost("after the commit")

        watched.after = lose
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                ran.add(job.id)

            async with running(pgq, heartbeat_timeout=0.3, dequeue_timeout=0.1):
                ids = await pgq.queries.enqueue(["it"] * 3)
                await ran.until(3)
            assert sorted(ran.entries) == ids
            assert await in_table(pgq.queries) == {}
