"""The contract of `JobStore.claim`, for every store."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID

import anyio
import pytest

from pgq_trio.abc import Claimed
from pgq_trio.model.outcomes import Outcome
from pgq_trio.models import Job
from tests.store.world import ALICE, BOB, LEASE, World, fence, ids_of, new


class TestClaim:
    async def test_highest_priority_first_then_lowest_id(self, world: World) -> None:
        ids = await world.enqueue_ids(
            new("a"), new("b", priority=1), new("a", priority=2), new("b"), new("a", priority=1)
        )
        expected = [ids[2], ids[1], ids[4], ids[0], ids[3]]
        assert ids_of((await world.claim(batch=2)).jobs) == expected[:2]
        assert ids_of((await world.claim(batch=2)).jobs) == expected[2:4]
        assert ids_of((await world.claim(batch=2)).jobs) == expected[4:]
        assert (await world.claim(batch=2)).jobs == []

    async def test_a_small_batch_of_a_long_queue(self, world: World) -> None:
        ids = await world.enqueue_ids(*(new(priority=n // 2) for n in range(20)))
        expected = [ids[n] for pair in range(18, -1, -2) for n in (pair, pair + 1)]
        taken: list[int] = []
        for limits in ({"a": 0}, {"a": 20}, {"a": 0}, {"a": 20}):
            taken += ids_of((await world.claim(limits, batch=3)).jobs)
        assert taken == expected[:12]

    async def test_only_the_entrypoints_asked_for(self, world: World) -> None:
        ids = await world.enqueue_ids(new("a"), new("other", priority=9), new("A"))
        assert ids_of((await world.claim({"a": 0})).jobs) == ids[:1]
        assert (await world.claim({})).jobs == []
        assert await world.queued() == 2

    async def test_a_claimed_job_belongs_to_the_claimer(self, world: World) -> None:
        await world.enqueue(new(priority=3))
        [job] = (await world.claim(worker=BOB)).jobs
        assert job.status == "picked"
        assert job.queue_manager_id == BOB
        assert job.updated == job.heartbeat
        assert job.updated > job.created
        assert job.slot is None
        assert await world.statuses(job.id) == ["queued", "picked"]
        assert (await world.backend.jobs.job_status([job.id])) == {job.id: "picked"}

    async def test_a_full_batch_has_no_next_due(self, world: World) -> None:
        await world.enqueue(new(), new(after=timedelta(seconds=5)))
        assert (await world.claim(batch=1)).next_due is None

    async def test_next_due_of_an_empty_queue(self, world: World) -> None:
        await world.enqueue(new("other"))
        assert (await world.claim()).next_due is None

    async def test_next_due_is_that_of_the_earliest(self, world: World) -> None:
        await world.enqueue(
            new("a", after=timedelta(seconds=500), priority=9),
            new("b", after=timedelta(seconds=50)),
            new("a", after=timedelta(seconds=70)),
            new("other", after=timedelta(seconds=5)),
            new("b"),
        )
        claimed = await world.claim()
        assert len(claimed.jobs) == 1
        assert claimed.next_due == pytest.approx(50, abs=2)
        assert (await world.claim({"a": 0})).next_due == pytest.approx(70, abs=2)
        assert (await world.claim({"a": 3})).next_due == pytest.approx(70, abs=2)

    async def test_next_due_ignores_what_was_just_claimed(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(5)))
        claimed = await world.claim(batch=6)
        assert (len(claimed.jobs), claimed.next_due) == (5, None)

    async def test_next_due_of_what_had_no_slot(self, world: World) -> None:
        await world.enqueue(new(), new())
        claimed = await world.claim({"a": 1})
        assert len(claimed.jobs) == 1
        assert claimed.next_due is not None
        assert claimed.next_due <= 0

    async def test_next_later_is_that_of_the_earliest_not_due(self, world: World) -> None:
        await world.enqueue(
            new("a", after=timedelta(seconds=500)), new("b", after=timedelta(seconds=50)),
            new("a", after=timedelta(seconds=70)), new("other", after=timedelta(seconds=5)),
            new("b"), new("b"),
        )  # fmt: skip
        assert (await world.claim(batch=1)).next_later is None  # a full batch
        assert (await world.claim()).next_later == pytest.approx(50, abs=2)
        assert (await world.claim({"a": 0})).next_later == pytest.approx(70, abs=2)
        assert (await world.claim({"a": 3})).next_later == pytest.approx(70, abs=2)
        await world.pass_time(60)
        claimed = await world.claim()
        assert claimed.next_due == claimed.next_later == pytest.approx(10, abs=2)

    async def test_next_later_of_an_empty_queue(self, world: World) -> None:
        await world.enqueue(new("other", after=timedelta(seconds=5)), new("a"))
        assert (await world.claim()).next_later is None
        assert (await world.claim({"a": 1})).next_later is None

    async def test_no_job_twice_under_twenty_claimers(self, world: World) -> None:
        ids = await world.enqueue_ids(*(new("ab"[n % 2], priority=n % 3) for n in range(300)))
        taken: list[int] = []

        async def claimer(batch: int) -> None:
            while jobs := (await world.claim(batch=batch)).jobs:
                taken.extend(ids_of(jobs))

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(claimer, 1 + n % 7)
        while jobs := (await world.claim()).jobs:  # what was locked when the last one looked
            taken.extend(ids_of(jobs))
        assert sorted(taken) == ids

    async def test_a_claim_wakes_nobody(self, world: World) -> None:
        await world.enqueue(new())
        async with world.listening() as heard:
            assert len((await world.claim()).jobs) == 1
            assert await heard.until_marker() == []

    async def test_many_deferred_jobs_ahead_of_the_due_ones(self, world: World) -> None:
        await world.enqueue(*(new(priority=9, after=timedelta(hours=1)) for _ in range(1500)))
        ids = await world.enqueue_ids(*(new(priority=n % 3) for n in range(600)))
        expected = ids[2::3] + ids[1::3] + ids[0::3]
        assert ids_of((await world.claim({"a": 0}, batch=4)).jobs) == expected[:4]
        # The four that are picked without a slot count against the limit.
        assert ids_of((await world.claim({"a": 7}, batch=4)).jobs) == expected[4:7]
        assert ids_of((await world.claim({"a": 0})).jobs) == expected[7:]


class TestRescue:
    async def test_an_expired_lease_is_taken_over(self, world: World) -> None:
        job = await world.claimed_one(ALICE)
        await world.pass_time(LEASE + 1)
        [rescued] = (await world.claim(worker=BOB)).jobs
        assert rescued.id == job.id
        assert rescued.attempts == 1
        assert rescued.queue_manager_id == BOB
        assert rescued.updated == rescued.heartbeat > job.updated
        assert await world.statuses(job.id) == ["queued", "picked", "picked"]

    async def test_a_lease_that_holds_is_not(self, world: World) -> None:
        job = await world.claimed_one(ALICE)
        await world.pass_time(LEASE - 5)
        claimed = await world.claim(worker=BOB)
        assert (claimed.jobs, claimed.next_due) == ([], None)
        await world.backend.jobs.heartbeat(ALICE, [fence(job)])
        await world.pass_time(LEASE - 5)
        assert (await world.claim(worker=BOB)).jobs == []
        await world.pass_time(10)
        assert ids_of((await world.claim(worker=BOB)).jobs) == [job.id]

    async def test_again_and_again(self, world: World) -> None:
        job = await world.claimed_one()
        for attempt in range(1, 4):
            await world.pass_time(LEASE + 1)
            [job] = (await world.claim()).jobs
            assert job.attempts == attempt
            assert (await world.claim()).jobs == []

    async def test_only_of_entrypoints_asked_for(self, world: World) -> None:
        await world.claimed_one()
        await world.pass_time(LEASE + 1)
        assert (await world.claim({"b": 0})).jobs == []
        assert len((await world.claim({"a": 0})).jobs) == 1

    async def test_stale_and_fresh_jobs_stand_in_one_line(self, world: World) -> None:
        ids = await world.enqueue_ids(new(priority=1), new(priority=3))
        await world.claim()
        await world.pass_time(LEASE + 1)
        ids += await world.enqueue_ids(new(priority=2), new(priority=1), new(priority=4))
        expected = [ids[4], ids[1], ids[2], ids[0], ids[3]]
        assert ids_of((await world.claim(batch=3)).jobs) == expected[:3]
        assert ids_of((await world.claim()).jobs) == expected[3:]

    async def test_what_is_not_taken_can_be_rescued_later(self, world: World) -> None:
        ids = await world.enqueue_ids(*(new() for _ in range(5)))
        await world.claim()
        await world.pass_time(LEASE + 1)
        assert ids_of((await world.claim(batch=2)).jobs) == ids[:2]
        assert ids_of((await world.claim(batch=9)).jobs) == ids[2:]


class TestLostRuns:
    """How many runs in a row ended without an outcome, told of rescued jobs only."""

    async def lose(self, world: World, *, worker: UUID = ALICE) -> Claimed:
        """Have the worker of everything that is picked fall silent; claim what it had."""
        await world.pass_time(LEASE + 1)
        return await world.claim(worker=worker)

    @pytest.mark.parametrize("history", ["full", "outcomes"])
    async def test_each_rescue_counts_one_more(
        self, world: World, outcomes_world: World, history: str
    ) -> None:
        world = world if history == "full" else outcomes_world
        await world.enqueue(new(), new("b"))
        first = await world.claim({"a": 0})
        assert first.lost_runs == {}
        for lost in range(1, 5):
            claimed = await self.lose(world, worker=BOB if lost % 2 else ALICE)
            # The other job is fresh at first, and its own worker is lost from then on.
            other = [job.id for job in claimed.jobs if job.entrypoint == "b"]
            expected = {first.jobs[0].id: lost} | ({other[0]: lost - 1} if lost > 1 else {})
            assert claimed.lost_runs == expected
        assert (await world.claim()).lost_runs == {}

    @pytest.mark.parametrize("history", ["full", "outcomes"])
    @pytest.mark.parametrize("ending", ["release", "retry", "requeue"])
    async def test_whatever_else_ends_a_run_begins_the_count_anew(
        self, world: World, outcomes_world: World, history: str, ending: str
    ) -> None:
        world = world if history == "full" else outcomes_world
        await world.claimed_one()
        await self.lose(world)
        [job] = (await self.lose(world)).jobs
        if ending == "release":
            await world.backend.jobs.release(ALICE, [fence(job)])
        elif ending == "retry":
            await world.finish([job], Outcome("retry"))
        else:
            await world.finish([job], Outcome("failed"))
            await world.backend.jobs.requeue([job.id])
        again = await world.claim()
        assert (ids_of(again.jobs), again.lost_runs) == ([job.id], {})
        assert (await self.lose(world)).lost_runs == {job.id: 1}
        assert (await self.lose(world)).lost_runs == {job.id: 2}

    async def test_of_limited_entrypoints_too(self, world: World) -> None:
        await world.enqueue(new(), new("b"))
        first, second = (await world.claim({"a": 1, "b": 0})).jobs
        await world.pass_time(LEASE + 1)
        claimed = await world.claim({"a": 1, "b": 0})
        assert claimed.lost_runs == {first.id: 1, second.id: 1}
        await world.pass_time(LEASE + 1)
        claimed = await world.claim({"a": 1, "b": 0}, limited=0)
        assert claimed.lost_runs == {second.id: 2}

    async def test_only_of_what_was_claimed(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(4)))
        ids = ids_of((await world.claim()).jobs)
        await world.pass_time(LEASE + 1)
        assert (await world.claim(batch=1)).lost_runs == {ids[0]: 1}
        assert (await world.claim(batch=9)).lost_runs == dict.fromkeys(ids[1:], 1)

    async def test_with_the_outcomes_history_rescues_alone_are_logged(
        self, outcomes_world: World
    ) -> None:
        world = outcomes_world
        job = await world.claimed_one()
        await self.lose(world)
        [job] = (await self.lose(world)).jobs
        assert await world.statuses(job.id) == ["picked", "picked"]
        await world.backend.jobs.release(ALICE, [fence(job)])
        assert await world.statuses(job.id) == ["picked", "picked", "queued"]
        await world.finish((await world.claim()).jobs)
        assert (await world.statuses(job.id))[2:] == ["queued", "successful"]


class TestSlot:
    async def test_the_lowest_free_slots(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(9)))
        first = (await world.claim({"a": 4})).jobs
        assert [job.slot for job in first] == [0, 1, 2, 3]
        assert (await world.claim({"a": 4}, worker=BOB)).jobs == []
        await world.finish([first[1], first[3]])
        second = (await world.claim({"a": 4}, worker=BOB)).jobs
        assert [job.slot for job in second] == [1, 3]
        assert ids_of(first + second) == sorted(ids_of(first + second))

    async def test_an_unlimited_entrypoint_takes_none(self, world: World) -> None:
        await world.enqueue(new("a"), new("b"), new("a"), new("b"))
        jobs = (await world.claim({"a": 1, "b": 0})).jobs
        assert [(job.entrypoint, job.slot) for job in jobs] == [("a", 0), ("b", None), ("b", None)]

    async def test_each_entrypoint_has_its_own(self, world: World) -> None:
        await world.enqueue(*(new("ab"[n % 2]) for n in range(8)))
        jobs = (await world.claim({"a": 2, "b": 3})).jobs
        assert Counter(job.entrypoint for job in jobs) == {"a": 2, "b": 3}
        assert [j.slot for j in jobs if j.entrypoint == "a"] == [0, 1]
        assert [j.slot for j in jobs if j.entrypoint == "b"] == [0, 1, 2]

    @pytest.mark.parametrize("ending", ["release", "retry", "failed", "cancel", "clear"])
    async def test_whatever_ends_a_run_frees_its_slot(self, world: World, ending: str) -> None:
        await world.enqueue(new(), new())
        [job] = (await world.claim({"a": 1})).jobs
        async with world.listening() as heard:
            await self._end(world, job, ending)
            assert await heard.until_marker() != []  # somebody waits for a seat
        [next_job] = (await world.claim({"a": 1, "b": 1}, batch=1)).jobs
        assert next_job.slot == 0

    async def _end(self, world: World, job: Job, ending: str) -> None:
        jobs = world.backend.jobs
        if ending == "release":
            await jobs.release(ALICE, [fence(job)])
        elif ending == "cancel":
            await jobs.cancel([job.id])
        elif ending == "clear":
            await jobs.clear(["a"])
            await world.enqueue(new())
        elif ending == "retry":
            await world.finish([job], Outcome("retry"))
        else:
            await world.finish([job], Outcome("failed"))

    async def test_the_share_of_limited_jobs_in_a_batch(self, world: World) -> None:
        ids = await world.enqueue_ids(
            new("a", priority=2), new("a", priority=2), new("b", priority=1), new("a", priority=2)
        )
        limits = {"a": 10, "b": 0}
        assert ids_of((await world.claim(limits, limited=0)).jobs) == [ids[2]]
        assert ids_of((await world.claim(limits, limited=2)).jobs) == ids[:2]
        assert ids_of((await world.claim(limits, limited=2)).jobs) == [ids[3]]

    async def test_the_share_over_several_entrypoints(self, world: World) -> None:
        ids = await world.enqueue_ids(new("a"), new("b", priority=1), new("a"), new("b"))
        jobs = (await world.claim({"a": 9, "b": 9}, limited=3)).jobs
        assert ids_of(jobs) == [ids[1], ids[0], ids[2]]

    async def test_a_rescue_keeps_its_slot_and_needs_no_other(self, world: World) -> None:
        await world.enqueue(new(), new(), new())
        first, second = (await world.claim({"a": 2})).jobs
        await world.finish([first])
        await world.pass_time(LEASE + 1)
        jobs = (await world.claim({"a": 2}, worker=BOB)).jobs
        assert [(job.attempts, job.slot) for job in jobs] == [(1, 1), (0, 0)]
        assert jobs[0].id == second.id

    async def test_a_rescue_by_a_worker_that_knows_no_limit(self, world: World) -> None:
        await world.claimed_one(limits={"a": 1})
        await world.pass_time(LEASE + 1)
        [job] = (await world.claim({"a": 0})).jobs
        assert job.slot == 0
        await world.enqueue(new())
        assert (await world.claim({"a": 1})).jobs == []

    async def test_rescues_count_as_limited(self, world: World) -> None:
        await world.claimed_one(limits={"a": 1})
        await world.pass_time(LEASE + 1)
        assert (await world.claim({"a": 1}, limited=0)).jobs == []
        assert len((await world.claim({"a": 1}, limited=1)).jobs) == 1

    async def test_a_slot_is_not_carried_over_to_a_claim_without_limit(self, world: World) -> None:
        job = await world.claimed_one(limits={"a": 1})
        await world.backend.jobs.release(ALICE, [fence(job)])
        [again] = (await world.claim({"a": 0})).jobs
        assert again.slot is None

    async def test_next_later_beside_a_saturated_limit(self, world: World) -> None:
        await world.enqueue(
            new("a"), new("a"), new("a"), new("a", after=timedelta(seconds=5)),
            new("b", after=timedelta(seconds=50)),
        )  # fmt: skip
        claimed = await world.claim({"a": 2, "b": 1})
        for _ in range(2):
            assert claimed.next_due is not None
            assert claimed.next_due <= 0
            assert claimed.next_later == pytest.approx(50, abs=2)
            assert (await world.claim({"a": 2})).next_later is None
            claimed = await world.claim({"a": 2, "b": 0})
        assert (await world.claim({"a": 4}, limited=0)).next_later is None
        assert (await world.claim({"a": 4}, limited=1)).next_later is None
        assert (await world.claim({"a": 4})).next_later == pytest.approx(5, abs=2)

    async def test_jobs_without_a_slot_count_as_well(self, world: World) -> None:
        """As PgQueuer counts: a worker that knew no limit, or knew none yet, has claimed them."""
        ids = await world.enqueue_ids(*(new() for _ in range(6)), new("b"))
        slotless = (await world.claim({"a": 0}, batch=2)).jobs
        [seated] = (await world.claim({"a": 3, "b": 1}, batch=1)).jobs
        assert (seated.id, seated.slot) == (ids[2], 0)
        claimed = await world.claim({"a": 3, "b": 1})
        assert ids_of(claimed.jobs) == [ids[6]]
        assert claimed.next_due is not None
        assert claimed.next_due <= 0
        await world.finish(slotless[:1])
        assert [job.slot for job in (await world.claim({"a": 3})).jobs] == [1]
        await world.finish(slotless[1:])
        assert [job.slot for job in (await world.claim({"a": 3})).jobs] == [2]

    async def test_the_limit_holds_under_twenty_claimers(self, world: World) -> None:
        ids = await world.enqueue_ids(*(new() for _ in range(60)))
        running: dict[int, int] = {}
        done: list[int] = []

        async def worker(number: int) -> None:
            for _ in range(200):
                jobs = (await world.claim({"a": 3}, batch=2)).jobs
                for job in jobs:
                    assert job.slot is not None
                    assert job.slot not in running
                    running[job.slot] = job.id
                assert len(running) <= 3
                await anyio.lowlevel.checkpoint()
                for job in jobs:
                    assert job.slot is not None
                    del running[job.slot]
                done.extend(await world.finish(jobs))
                if len(done) == len(ids):
                    return

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(worker, number)
        assert sorted(done) == ids
