"""What an attempt led to stands in the table and in the log, for every way it may end."""

from __future__ import annotations

import threading
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import anyio
import anyio.from_thread
import pytest

from pgq_trio import Context, Exponential, Fixed, Job, PgQueuer, RetryRequested
from pgq_trio.abc import ClaimRequest, RetryPolicy
from pgq_trio.errors import RegistrationError
from pgq_trio.models import TracebackRecord
from tests.worker.tools import (
    Notes,
    Place,
    Watcher,
    drain,
    in_table,
    outcome,
    running,
    statuses,
)

REFUSED = [{"retry": "no policy"}, {"timeout": 0}, {"timeout": -1}, {"on_failure": "ignore"},
           {"concurrency_limit": -1}, {"max_attempts": 0}]  # fmt: skip


async def test_an_exception_deletes_the_row_and_is_recorded(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            raise ValueError("what went wrong")

        (job_id,) = await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await in_table(pgq.queries) == {}
        entry = (await pgq.queries.queue_log(job_id=job_id))[-1]
    assert entry.status == "exception"
    assert isinstance(entry.traceback, TracebackRecord)
    assert entry.traceback.job_id == job_id
    assert entry.traceback.exception_type == "ValueError"
    assert entry.traceback.exception_message == "what went wrong"
    assert "test_outcomes.py" in entry.traceback.traceback


async def test_hold_keeps_the_row_until_it_is_requeued(place: Place) -> None:
    attempts: list[int] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it", on_failure="hold", retry=Fixed(0, max_attempts=2))
        async def handler(job: Job) -> None:
            attempts.append(job.attempts)
            if len(attempts) < 3:
                raise ValueError("not yet")

        (job_id,) = await pgq.queries.enqueue("it", b"payload")
        await drain(pgq)
        assert await in_table(pgq.queries) == {"failed": 1}
        (held,) = await pgq.queries.list_failed_jobs()
        assert (held.id, held.status, held.queue_manager_id) == (job_id, "failed", None)
        assert (held.payload, held.attempts) == (b"payload", 1)
        assert await pgq.queries.requeue_jobs(job_id) == {job_id}
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "successful"
    assert attempts == [0, 1, 0]


async def test_retry_requested_waits_and_counts(place: Place) -> None:
    started: Notes[tuple[int, float]] = Notes()
    delay = 0.3
    async with place.open() as pgq:

        @pgq.entrypoint("it", max_attempts=1)
        async def handler(job: Job) -> None:
            started.add((job.attempts, anyio.current_time()))
            if job.attempts < 2:
                raise RetryRequested(timedelta(seconds=delay), reason="later")

        async with running(pgq):
            (job_id,) = await pgq.queries.enqueue("it")
            runs = await started.until(3)
        log = await pgq.queries.queue_log(job_id=job_id)
    assert [attempts for attempts, _ in runs] == [0, 1, 2]
    for (_, before), (_, after) in pairwise(runs):
        assert after - before >= delay
    assert [entry.status for entry in log] == ["queued", "picked"] * 3 + ["successful"]
    record = log[2].traceback
    assert record is not None
    assert (record.exception_type, record.exception_message) == ("RetryRequested", "later")


async def test_a_group_of_retries_waits_the_longest_and_a_mixed_one_fails(place: Place) -> None:
    retries = ExceptionGroup("only retries", [
        RetryRequested(0.0), ExceptionGroup("inner", [RetryRequested(3600), RetryRequested(1)]),
    ])  # fmt: skip
    mixed = ExceptionGroup("mixed", [RetryRequested(0.0), ValueError("no retry")])
    async with place.open() as pgq:

        @pgq.entrypoint("retries")
        async def only_retries(job: Job) -> None:
            raise retries

        @pgq.entrypoint("mixed")
        async def mixed_group(job: Job) -> None:
            raise mixed

        first, second = await pgq.queries.enqueue(["retries", "mixed"])
        await drain(pgq)
        # An hour: were it the first or the shortest, the drain would have run it again.
        assert await statuses(pgq.queries, first) == ["queued", "picked", "queued"]
        assert await in_table(pgq.queries) == {"queued": 1}
        assert await outcome(pgq.queries, second) == "exception"


async def test_policies_decide_and_end(place: Place) -> None:
    attempts: dict[str, list[int]] = {}

    class Own:
        def next_delay(self, job: Job, exception: Exception) -> float | None:
            assert isinstance(exception, KeyError)
            return 0.0 if job.attempts < 3 else None

    async with place.open() as pgq:
        policies: dict[str, RetryPolicy | None] = {
            "exponential": Exponential(max_attempts=3, initial=0.0, on=(KeyError,)),
            "fixed": Fixed(timedelta(0), max_attempts=2),
            "own": Own(),
            "not on": Fixed(0, max_attempts=5, on=(TypeError,)),
            "none": None,
        }
        for name, policy in policies.items():

            @pgq.entrypoint(name, retry=policy)
            async def handler(job: Job) -> None:
                attempts.setdefault(job.entrypoint, []).append(job.attempts)
                raise KeyError("always")

        ids = await pgq.queries.enqueue(list(policies))
        await drain(pgq)
        assert {await outcome(pgq.queries, job_id) for job_id in ids} == {"exception"}
    assert {name: len(runs) for name, runs in attempts.items()} == {
        "exponential": 3, "fixed": 2, "own": 4, "not on": 1, "none": 1,
    }  # fmt: skip


async def test_a_policy_that_raises_fails_its_job_and_no_other(place: Place) -> None:
    class Broken:
        def next_delay(self, job: Job, exception: Exception) -> float | None:
            raise ZeroDivisionError(f"the policy itself, for {job.id} and {exception}")

    async with place.open() as pgq:

        @pgq.entrypoint("broken", retry=Broken())
        async def broken(job: Job) -> None:
            raise ValueError("the job")

        @pgq.entrypoint("fine")
        async def fine(job: Job) -> None:
            await anyio.lowlevel.checkpoint()

        first, second = await pgq.queries.enqueue(["broken", "fine"])
        await drain(pgq)
        assert await outcome(pgq.queries, first) == "exception"
        assert await outcome(pgq.queries, second) == "successful"


@pytest.mark.parametrize("arguments", REFUSED, ids=str)
def test_arguments_that_cannot_work_are_refused_at_registration(
    arguments: dict[str, object],
) -> None:
    pgq = PgQueuer.in_memory()
    with pytest.raises(RegistrationError):

        @pgq.entrypoint("it", **arguments)  # type: ignore[arg-type]
        async def handler(job: Job) -> None: ...


async def test_timeout_cancels_and_is_recorded_as_an_exception(place: Place) -> None:
    cleaned: list[str] = []
    contexts: list[Context] = []
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq:

        @pgq.entrypoint("async", timeout=timedelta(seconds=0.05))
        async def sleeper(job: Job, ctx: Context) -> None:
            contexts.append(ctx)
            assert ctx.deadline is not None
            assert 0 < ctx.deadline - anyio.current_time() <= 0.05
            try:
                await anyio.sleep_forever()
            finally:
                cleaned.append("async")

        @pgq.entrypoint("def", timeout=0.05)
        def polling(job: Job) -> None:
            try:
                while True:
                    anyio.from_thread.check_cancelled()
                    threading.Event().wait(0.005)
            finally:
                cleaned.append("def")

        @pgq.entrypoint("none")
        async def without(job: Job, ctx: Context) -> None:
            assert ctx.deadline is None

        ids = await pgq.queries.enqueue(["async", "def", "none"])
        await drain(pgq)
        for job_id in ids[:2]:
            entry = (await pgq.queries.queue_log(job_id=job_id))[-1]
            assert entry.status == "exception"
            assert entry.traceback is not None
            assert entry.traceback.exception_type == "JobTimeout"
        assert await outcome(pgq.queries, ids[2]) == "successful"
    assert sorted(cleaned) == ["async", "def"]
    assert contexts[0].cancellation.cancel_called


async def test_timeout_may_be_retried_and_held(place: Place) -> None:
    attempts: list[int] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it", timeout=0.02, on_failure="hold", retry=Fixed(0, max_attempts=2))
        async def sleeper(job: Job) -> None:
            attempts.append(job.attempts)
            await anyio.sleep_forever()

        (job_id,) = await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "failed"
    assert attempts == [0, 1]


async def test_a_job_done_in_time_is_no_timeout(place: Place) -> None:
    """A handler that returns although its time ran out meanwhile has done its work."""
    async with place.open() as pgq:

        @pgq.entrypoint("it", timeout=0.02)
        def handler(job: Job) -> None:
            threading.Event().wait(0.06)

        (job_id,) = await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await outcome(pgq.queries, job_id) == "successful"


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_handler_may_cancel_itself(place: Place, kind: str) -> None:
    async with place.open() as pgq:

        async def on_loop(job: Job, ctx: Context) -> None:
            ctx.cancellation.cancel()
            await anyio.sleep_forever()

        def in_thread(job: Job, ctx: Context) -> None:
            anyio.from_thread.run_sync(ctx.cancellation.cancel)
            while True:
                anyio.from_thread.check_cancelled()
                threading.Event().wait(0.005)

        pgq.entrypoint("it")(on_loop if kind == "async" else in_thread)
        (job_id,) = await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await statuses(pgq.queries, job_id) == ["queued", "picked", "canceled"]
        assert await in_table(pgq.queries) == {}


async def test_the_delay_of_a_retry_is_added_to_the_stores_time(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            raise RetryRequested(100)

        await pgq.queries.enqueue("it")
        await drain(pgq)
        claimed = await pgq.queries.backend.jobs.claim(
            ClaimRequest(
                queue_manager_id=uuid4(),
                limits={"it": 0},
                batch_size=1,
                limited_batch_size=1,
                heartbeat_timeout=30,
            )
        )
    assert claimed.jobs == []
    assert claimed.next_due is not None
    assert 90 < claimed.next_due <= 100
