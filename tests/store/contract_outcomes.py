"""The contract of what happens to a claimed job: finish, release, heartbeat; for every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from pgq_trio.model.outcomes import CANCELED, SUCCESSFUL, Claim, Finished, Outcome, OutcomeKind
from pgq_trio.models import TracebackRecord
from tests.store.world import ALICE, BOB, LEASE, UPDATED, World, fence, ids_of, new


def traceback(job_id: int, message: str = "boom") -> TracebackRecord:
    return TracebackRecord.from_exception(
        ValueError(message),
        job_id=job_id,
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        additional_context={"entrypoint": "a", "n": 1},
    )


class TestFinish:
    @pytest.mark.parametrize("kind", ["successful", "exception", "canceled"])
    async def test_a_final_outcome_deletes_the_row(self, world: World, kind: OutcomeKind) -> None:
        job = await world.claimed_one()
        record = None if kind == "successful" else traceback(job.id)
        outcome = Outcome(kind, None if record is None else record.to_json())
        assert await world.finish([job], outcome) == {job.id}
        assert await world.backend.jobs.queue_size() == []
        assert await world.statuses(job.id) == ["queued", "picked", kind]
        assert (await world.backend.jobs.log())[-1].traceback == record
        assert await world.backend.jobs.job_status([job.id]) == {job.id: kind}

    async def test_failed_keeps_the_row(self, world: World) -> None:
        await world.enqueue(new("a", b"payload", priority=2, key="k", headers={"h": 1}))
        [job] = (await world.claim({"a": 1})).jobs
        record = traceback(job.id)
        assert await world.finish([job], Outcome("failed", record.to_json())) == {job.id}
        [held] = await world.backend.jobs.failed_jobs(limit=9)
        assert held.status == "failed"
        assert held.queue_manager_id is None
        assert (held.id, held.payload, held.headers, held.dedupe_key) == (
            job.id, b"payload", {"h": 1}, "k",
        )  # fmt: skip
        assert held.attempts == 0
        assert held.slot is None
        log = (await world.backend.jobs.log())[-1]
        assert (log.status, log.traceback) == ("failed", record)
        await world.pass_time(LEASE + 1)
        assert (await world.claim()).jobs == []

    async def test_retry(self, world: World) -> None:
        job = await world.claimed_one()
        record = traceback(job.id)
        outcome = Outcome("retry", record.to_json(), timedelta(seconds=40))
        assert await world.finish([job], outcome) == {job.id}
        claimed = await world.claim()
        assert claimed.jobs == []
        assert claimed.next_due == pytest.approx(40, abs=2)
        log = (await world.backend.jobs.log())[-1]
        assert (log.status, log.traceback) == ("queued", record)
        await world.pass_time(41)
        [again] = (await world.claim(worker=BOB)).jobs
        assert (again.id, again.attempts, again.queue_manager_id) == (job.id, 1, BOB)

    async def test_retry_at_once(self, world: World) -> None:
        job = await world.claimed_one()
        await world.finish([job], Outcome("retry"))
        assert ids_of((await world.claim()).jobs) == [job.id]

    async def test_all_kinds_in_one_call(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(500)))
        jobs = (await world.claim()).jobs
        kinds: tuple[OutcomeKind, ...] = ("successful", "exception", "canceled", "failed", "retry")
        finished = [Finished(fence(j), Outcome(kinds[n % 5])) for n, j in enumerate(jobs)]
        assert await world.backend.jobs.finish(ALICE, finished) == set(ids_of(jobs))
        states = await world.backend.jobs.job_status(ids_of(jobs))
        expected = ("successful", "exception", "canceled", "failed", "queued")
        assert states == {job.id: expected[n % 5] for n, job in enumerate(jobs)}

    async def test_nothing_to_finish(self, world: World) -> None:
        assert await world.backend.jobs.finish(ALICE, []) == set()

    async def test_a_retry_wakes_the_workers(self, world: World) -> None:
        job = await world.claimed_one()
        async with world.listening() as heard:
            await world.finish([job], Outcome("retry", delay=timedelta(seconds=9)))
            assert await heard.until_marker() == [UPDATED]

    @pytest.mark.parametrize("kind", ["successful", "exception", "canceled", "failed"])
    async def test_other_outcomes_wake_nobody(self, world: World, kind: OutcomeKind) -> None:
        job = await world.claimed_one()
        async with world.listening() as heard:
            await world.finish([job], Outcome(kind))
            assert await heard.until_marker() == []

    async def test_a_freed_slot_wakes_the_workers(self, world: World) -> None:
        job = await world.claimed_one(limits={"a": 1})
        async with world.listening() as heard:
            await world.finish([job])
            assert await heard.until_marker() == [UPDATED]

    async def test_an_error_text_that_cannot_be_stored_is_made_storable(self, world: World) -> None:
        job = await world.claimed_one()
        record = traceback(job.id, 'nul \x00 surrogate \ud800 quote " backslash \\ {} ü €')
        assert await world.finish([job], Outcome("exception", record.to_json())) == {job.id}
        assert (await world.backend.jobs.log())[-1].traceback == record


class TestFence:
    @pytest.mark.parametrize("kind", ["successful", "exception", "failed", "retry"])
    async def test_not_the_worker_that_claimed(self, world: World, kind: OutcomeKind) -> None:
        job = await world.claimed_one(ALICE)
        before = await world.backend.jobs.log()
        assert await world.finish([job], Outcome(kind), worker=BOB) == set()
        assert await world.backend.jobs.log() == before
        assert await world.finish([job]) == {job.id}

    @pytest.mark.parametrize("kind", ["successful", "exception", "failed", "retry"])
    async def test_the_row_was_taken_over(self, world: World, kind: OutcomeKind) -> None:
        stale = await world.claimed_one(ALICE)
        await world.pass_time(LEASE + 1)
        [job] = (await world.claim(worker=BOB)).jobs
        assert await world.finish([stale], Outcome(kind)) == set()
        assert await world.backend.jobs.job_status([job.id]) == {job.id: "picked"}
        assert await world.finish([job], worker=BOB) == {job.id}

    async def test_taken_over_by_the_same_worker(self, world: World) -> None:
        stale = await world.claimed_one(ALICE)
        await world.pass_time(LEASE + 1)
        await world.enqueue(new())
        again, other = (await world.claim(worker=ALICE)).jobs
        assert again.id == stale.id
        # Both times occur in the call, but not with this job.
        finished = [Finished(fence(stale), SUCCESSFUL), Finished(fence(other), SUCCESSFUL)]
        assert await world.backend.jobs.finish(ALICE, finished) == {other.id}
        finished = [Finished(Claim(0, again.updated), SUCCESSFUL), Finished(fence(stale), CANCELED)]
        assert await world.backend.jobs.finish(ALICE, finished) == set()
        claims = [fence(stale), Claim(other.id, again.updated)]
        assert await world.backend.jobs.heartbeat(ALICE, claims) == set()
        assert await world.backend.jobs.release(ALICE, claims) == set()
        assert await world.finish([again]) == {again.id}

    async def test_finished_already(self, world: World) -> None:
        job = await world.claimed_one()
        assert await world.finish([job]) == {job.id}
        assert await world.finish([job]) == set()
        assert await world.statuses(job.id) == ["queued", "picked", "successful"]

    async def test_cancelled_meanwhile(self, world: World) -> None:
        job = await world.claimed_one()
        await world.backend.jobs.cancel([job.id])
        assert await world.finish([job]) == set()
        assert await world.backend.jobs.heartbeat(ALICE, [fence(job)]) == set()
        assert await world.backend.jobs.release(ALICE, [fence(job)]) == set()
        assert await world.statuses(job.id) == ["queued", "picked", "canceled"]

    async def test_held_or_retried_already(self, world: World) -> None:
        held = await world.claimed_one()
        await world.finish([held], Outcome("failed"))
        retried = await world.claimed_one()
        await world.finish([retried], Outcome("retry", delay=timedelta(seconds=99)))
        assert await world.finish([held, retried]) == set()
        assert await world.backend.jobs.release(ALICE, [fence(held), fence(retried)]) == set()
        assert await world.backend.jobs.heartbeat(ALICE, [fence(held), fence(retried)]) == set()

    async def test_a_loser_does_not_touch_the_others(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(9)))
        jobs = (await world.claim()).jobs
        await world.backend.jobs.cancel(ids_of(jobs[::3]))
        owned = {job.id for n, job in enumerate(jobs) if n % 3}
        assert await world.backend.jobs.heartbeat(ALICE, [fence(job) for job in jobs]) == owned
        assert await world.finish(jobs) == owned


class TestRelease:
    async def test_runnable_at_once_without_spending_an_attempt(self, world: World) -> None:
        job = await world.claimed_one(ALICE)
        assert await world.backend.jobs.release(ALICE, [fence(job)]) == {job.id}
        [again] = (await world.claim(worker=BOB)).jobs
        assert (again.id, again.attempts, again.queue_manager_id) == (job.id, 0, BOB)
        assert await world.statuses(job.id) == ["queued", "picked", "queued", "picked"]

    async def test_the_workers_are_woken(self, world: World) -> None:
        job = await world.claimed_one()
        async with world.listening() as heard:
            await world.backend.jobs.release(ALICE, [fence(job)])
            assert await heard.until_marker() == [UPDATED]
            await world.backend.jobs.release(ALICE, [fence(job)])
            assert await heard.until_marker() == []

    async def test_only_by_its_owner(self, world: World) -> None:
        job = await world.claimed_one(ALICE)
        assert await world.backend.jobs.release(BOB, [fence(job)]) == set()
        await world.pass_time(LEASE + 1)
        await world.claim(worker=BOB)
        assert await world.backend.jobs.release(ALICE, [fence(job)]) == set()
        assert await world.queued() == 0

    async def test_nothing_to_release(self, world: World) -> None:
        async with world.listening() as heard:
            assert await world.backend.jobs.release(ALICE, []) == set()
            assert await heard.until_marker() == []

    async def test_attempts_survive(self, world: World) -> None:
        job = await world.claimed_one()
        await world.finish([job], Outcome("retry"))
        [job] = (await world.claim()).jobs
        await world.backend.jobs.release(ALICE, [fence(job)])
        [job] = (await world.claim()).jobs
        assert job.attempts == 1


class TestHeartbeat:
    async def test_it_renews_the_lease_and_nothing_else(self, world: World) -> None:
        job = await world.claimed_one()
        log = await world.statuses(job.id)
        async with world.listening() as heard:
            for _ in range(3):
                await world.pass_time(LEASE - 5)
                assert await world.backend.jobs.heartbeat(ALICE, [fence(job)]) == {job.id}
                assert (await world.claim(worker=BOB)).jobs == []
            assert await heard.until_marker() == []
        assert await world.statuses(job.id) == log
        assert await world.finish([job]) == {job.id}  # the fence is untouched

    async def test_only_by_its_owner(self, world: World) -> None:
        job = await world.claimed_one(ALICE)
        assert await world.backend.jobs.heartbeat(BOB, [fence(job)]) == set()
        await world.pass_time(LEASE + 1)
        [rescued] = (await world.claim(worker=BOB)).jobs
        assert await world.backend.jobs.heartbeat(ALICE, [fence(job)]) == set()
        assert await world.backend.jobs.heartbeat(BOB, [fence(rescued)]) == {job.id}

    async def test_nothing_to_renew(self, world: World) -> None:
        assert await world.backend.jobs.heartbeat(ALICE, []) == set()

    async def test_claims_are_told_apart_by_their_time(self, world: World) -> None:
        times = []
        job = await world.claimed_one()
        for _ in range(20):
            times.append(job.updated)
            await world.backend.jobs.release(ALICE, [fence(job)])
            [job] = (await world.claim()).jobs
        assert all(earlier < later for earlier, later in pairwise(times))
