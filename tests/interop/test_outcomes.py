"""Endings that one package writes and the other goes on from: retries, failures, held jobs."""

from __future__ import annotations

import pytest

from pgq_trio import Job, PgQueuer
from tests.interop.sides import Book, Pair
from tests.worker.tools import running


def make_due(pair: Pair, job_id: int) -> None:
    """Let the hour of a retry pass."""
    rows = pair.fetch(
        "UPDATE pgqueuer q SET execute_after = now() - interval '1 second' FROM pgqueuer before"
        " WHERE q.id = before.id AND q.id = %s RETURNING before.execute_after > now()",
        job_id,
    )
    assert rows == [(True,)]


async def test_retries_go_on_in_the_other_package(pair: Pair) -> None:
    job_id = await pair.one.enqueue(b"p")
    for attempts, side in enumerate([pair.one, pair.other, pair.one]):
        seen = await side.run_one("retry")
        assert (seen.id, seen.attempts, seen.payload) == (job_id, attempts, b"p")
        make_due(pair, job_id)
    seen = await pair.other.run_one()
    assert (seen.id, seen.attempts) == (job_id, 3)
    assert pair.one.log(job_id) == ["queued", "picked"] * 4 + ["successful"]
    assert pair.empty()


async def test_the_reason_of_a_retry_is_logged_for_the_other(pair: Pair) -> None:
    job_id = await pair.other.enqueue()
    await pair.one.run_one("retry")
    record = await pair.other.failure(job_id)
    assert record is not None
    assert (record.job_id, record.exception_type) == (job_id, "RetryRequested")
    assert record.exception_message == "come back later"


async def test_a_failure_is_logged_for_the_other(pair: Pair) -> None:
    job_id = await pair.other.enqueue()
    await pair.one.run_one("raise")
    assert pair.empty()
    assert await pair.other.status(job_id) == "exception"
    record = await pair.other.failure(job_id)
    assert record is not None
    assert (record.job_id, record.exception_type) == (job_id, "ValueError")
    assert record.exception_message == "no luck"
    assert "in play" in record.traceback


async def test_a_held_job_is_requeued_by_the_other(pair: Pair) -> None:
    job_id = await pair.one.enqueue(b"p")
    await pair.one.run_one("retry")
    make_due(pair, job_id)
    for holder, requeuer in ((pair.one, pair.other), (pair.other, pair.one)):
        await holder.run_one("raise", on_failure="hold")
        assert await holder.failed() == await requeuer.failed() == [job_id]
        assert await requeuer.status(job_id) == "failed"
        assert (await requeuer.failure(job_id)).exception_message == "no luck"  # type: ignore[union-attr]
        assert pair.fetch("SELECT queue_manager_id, slot FROM pgqueuer") == [(None, None)]
        await requeuer.requeue(job_id)
        assert await holder.failed() == await requeuer.failed() == []
        assert pair.fetch("SELECT attempts, status::text FROM pgqueuer") == [(0, "queued")]
    seen = await pair.other.run_one()
    assert (seen.id, seen.attempts, seen.payload) == (job_id, 0, b"p")
    assert pair.one.log(job_id)[2:] == [
        *["queued", "picked", "failed"] * 2,
        *["queued", "picked", "successful"],
    ]


async def test_requeueing_what_is_not_held_changes_nothing(pair: Pair) -> None:
    async with pair.one.work("wait") as worker:
        picked = await pair.one.enqueue()
        await worker.jobs(1)
        queued = await pair.other.enqueue(name="b")
        before = pair.fetch("SELECT * FROM pgqueuer ORDER BY id")
        await pair.other.requeue(picked, queued, 12345)
        assert pair.fetch("SELECT * FROM pgqueuer ORDER BY id") == before
        await worker.release()


async def test_an_idle_worker_finds_a_requeued_job(pair: Pair) -> None:
    # PgQueuer's requeue notifies nobody: the poll finds it. Ours does.
    lease = 30.0 if pair.other is pair.ours else 1.0
    job_id = await pair.one.enqueue()
    await pair.one.run_one("raise", on_failure="hold")
    async with pair.one.work(lease=lease) as worker:
        other = await pair.other.enqueue()
        await worker.jobs(1)
        await pair.quiet()
        await pair.other.requeue(job_id)
        assert [job.id for job in await worker.jobs(2)] == [other, job_id]


@pytest.mark.parametrize("direction", ["ours-first"])
class TestFromUs:
    async def test_an_interrupted_job_goes_on_at_once_in_their_idle_worker(
        self, pair: Pair
    ) -> None:
        book = Book("wait")
        async with PgQueuer.open(pair.dsn) as pgq:

            @pgq.entrypoint("a")
            async def handler(job: Job) -> None:
                await book.play(job, ValueError())

            async with running(pgq, grace_period=0):
                job_id = await pair.theirs.enqueue(b"p")
                await book.seen.until(1)
                async with pair.theirs.work() as worker:
                    await pair.quiet()
                    pgq.request_shutdown()
                    [seen] = await worker.jobs(1)
        assert (seen.id, seen.attempts, seen.payload) == (job_id, 0, b"p")
        assert book.cancelled.entries == [job_id]
        assert pair.ours.log(job_id) == ["queued", "picked", "queued", "picked", "successful"]
