"""Jobs that one package cancels while they are the other's."""

from __future__ import annotations

import pytest

from tests.interop.sides import Pair


async def test_a_queued_job(pair: Pair) -> None:
    gone, kept = await pair.one.enqueue_all([None, None])
    await pair.other.cancel(gone)
    assert pair.other.log(gone) == ["queued", "canceled"]
    assert await pair.one.status(gone) == "canceled"
    assert [job.id for job in await pair.one.drain()] == [kept]


async def test_a_running_job(pair: Pair) -> None:
    async with pair.one.work("wait") as worker:
        first, second = await pair.one.enqueue_all([None, None])
        await worker.jobs(2)
        await pair.other.cancel(first)
        assert await worker.cancelled(1) == [first]
        assert await pair.other.status(second) == "picked"
        # The worker lives on.
        third = await pair.other.enqueue()
        assert [job.id for job in await worker.jobs(3)] == [first, second, third]
        await worker.release()
    assert await worker.cancelled(0) == [first]
    assert pair.one.log(first) == ["queued", "picked", "canceled"]
    assert pair.one.log(second) == ["queued", "picked", "successful"]
    assert pair.empty()


async def test_a_held_job(pair: Pair) -> None:
    job_id = await pair.one.enqueue()
    await pair.one.run_one("raise", on_failure="hold")
    await pair.other.cancel(job_id)
    assert await pair.one.failed() == []
    assert pair.one.log(job_id)[-2:] == ["failed", "canceled"]
    assert pair.empty()


async def test_what_nobody_knows(pair: Pair) -> None:
    async with pair.one.work() as worker:
        await pair.other.cancel(1_000_000, 2_000_000)
        job_id = await pair.one.enqueue()
        await worker.jobs(1)
    assert pair.one.log(job_id)[-1] == "successful"
    assert pair.fetch("SELECT DISTINCT job_id FROM pgqueuer_log") == [(job_id,)]


@pytest.mark.parametrize("direction", ["ours-first"])
async def test_any_number_of_jobs_that_their_worker_runs_or_not(pair: Pair) -> None:
    # More ids than PgQueuer could cancel at once, since they do not fit in one notification.
    async with pair.theirs.work("wait") as worker:
        queued = await pair.theirs.enqueue_all([None] * 3000, name="b")
        first, last = await pair.theirs.enqueue(), await pair.ours.enqueue()
        await worker.jobs(2)
        await pair.ours.cancel(first, *queued, last)
        assert sorted(await worker.cancelled(2)) == [first, last]
    assert pair.empty()
    assert pair.fetch("SELECT count(*) FROM pgqueuer_log WHERE status = 'canceled'") == [(3002,)]
