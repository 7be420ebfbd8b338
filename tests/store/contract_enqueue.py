"""The contract of `JobStore.enqueue`, for every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.enqueue import MAX_DELAY, MAX_HEADERS_DEPTH, MAX_NAME_BYTES
from pgq_trio.types import OnConflict
from tests.store.world import ALICE, INSERTED, World, fence, ids_of, new


class TestEnqueue:
    async def test_what_went_in_comes_out(self, world: World) -> None:
        headers = {"trace": 'quote " backslash \\ brace } comma ,', "n": [1, None, {"x": "ü"}]}
        ids = await world.enqueue(
            new("a", bytes(range(256)), priority=7, key="k,{}\"\\'", headers=headers),
            new("a", None, priority=-5),
            new("a", b"", headers={}),
        )
        first, third, second = (await world.claim()).jobs
        assert [first.id, second.id, third.id] == ids
        assert (first.payload, second.payload, third.payload) == (bytes(range(256)), None, b"")
        assert (first.headers, second.headers, third.headers) == (headers, None, {})
        assert (first.priority, second.priority, third.priority) == (7, -5, 0)
        assert (first.dedupe_key, second.dedupe_key) == ("k,{}\"\\'", None)
        assert first.attempts == 0
        assert first.execute_after == first.created

    async def test_ids_are_in_order_and_grow(self, world: World) -> None:
        ids = await world.enqueue_ids(*(new(priority=n % 3) for n in range(100)))
        assert ids == sorted(ids)
        assert len(set(ids)) == 100

    async def test_a_batch_of_ten_thousand(self, world: World) -> None:
        jobs = [new("ab"[n % 2], b"%d" % n) for n in range(10_000)]
        ids = await world.enqueue_ids(*jobs)
        claimed = await world.claim(batch=10_000)
        assert ids_of(claimed.jobs) == ids
        assert [job.payload for job in claimed.jobs] == [job.payload for job in jobs]
        assert await world.finish(claimed.jobs) == set(ids)

    async def test_nothing_to_enqueue(self, world: World) -> None:
        async with world.listening() as heard:
            assert await world.enqueue() == []
            assert await heard.until_marker() == []

    async def test_each_job_is_logged_as_queued(self, world: World) -> None:
        ids = await world.enqueue_ids(new("a", priority=3), new("b"))
        log = await world.backend.jobs.log()
        assert [(x.job_id, x.status, x.priority, x.entrypoint) for x in log] == [
            (ids[0], "queued", 3, "a"),
            (ids[1], "queued", 0, "b"),
        ]
        assert log[0].traceback is None
        assert log[0].aggregated is False

    async def test_the_workers_are_woken(self, world: World) -> None:
        async with world.listening() as heard:
            await world.enqueue(new(), new(), new())
            assert await heard.next() == INSERTED
            assert await heard.until_marker() == []

    async def test_a_delay_counts_from_the_stores_now(self, world: World) -> None:
        await world.enqueue(new(after=timedelta(seconds=60)))
        assert (await world.claim()).jobs == []
        await world.pass_time(59)
        assert (await world.claim()).jobs == []
        await world.pass_time(2)
        assert len((await world.claim()).jobs) == 1

    async def test_a_point_in_time(self, world: World) -> None:
        moment = datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
        await world.enqueue(new(after=moment), new(after=datetime(2222, 1, 1, tzinfo=UTC)))
        [job] = (await world.claim()).jobs
        assert job.execute_after == moment
        assert await world.queued() == 1

    async def test_the_extremes_of_what_is_accepted(self, world: World) -> None:
        """They come back from every store, and can be read by a worker in any time zone."""
        times = [datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, tzinfo=UTC)]
        long = "é" * (MAX_NAME_BYTES // 2)
        deep: dict[str, object] = {}
        for _ in range(MAX_HEADERS_DEPTH - 1):
            deep = {"deeper": deep}
        ids = await world.enqueue_ids(
            new(long, after=times[0], key=long, headers=deep, priority=2**31 - 1),
            new("b", after=MAX_DELAY, priority=-(2**31)),
            new("b", after=times[1]),
        )
        [job] = (await world.claim({long: 0, "b": 0})).jobs
        assert (job.id, job.execute_after, job.headers) == (ids[0], times[0], deep)
        assert (job.entrypoint, job.dedupe_key, job.priority) == (long, long, 2**31 - 1)
        assert await world.finish([job]) == {job.id}
        claimed = await world.claim({"b": 0})
        # A claim looks no further than 100 years of the calendar.
        assert claimed.next_due == pytest.approx(MAX_DELAY.total_seconds(), rel=0.001)


class TestDedupe:
    @pytest.mark.parametrize("state", ["queued", "picked"])
    async def test_a_taken_key_is_refused_and_nothing_written(
        self, world: World, state: str
    ) -> None:
        await world.enqueue(new("b", key="k"))
        if state == "picked":
            await world.claim()
        before = await world.backend.jobs.log()
        with pytest.raises(DuplicateJobError) as caught:
            await world.enqueue(new(), new("a", key="k"), new(key="other"))
        assert caught.value.dedupe_key == [None, "k", "other"]
        assert await world.backend.jobs.log() == before
        assert await world.queued() == (state == "queued")

    async def test_a_key_given_twice_is_refused(self, world: World) -> None:
        with pytest.raises(DuplicateJobError):
            await world.enqueue(new(key="k"), new(key="k"))
        assert await world.queued() == 0

    async def test_jobs_without_a_key_never_collide(self, world: World) -> None:
        await world.enqueue(new(), new())
        await world.enqueue(new(), on_conflict="skip")
        await world.enqueue(new(), on_conflict="update_priority")
        assert await world.queued() == 4

    async def test_a_key_is_free_again_afterwards(self, world: World) -> None:
        await world.enqueue(new(key="k"))
        await world.finish((await world.claim()).jobs)
        [again] = await world.enqueue_ids(new(key="k"))
        await world.backend.jobs.cancel([again])
        await world.enqueue(new(key="k"))
        assert await world.queued() == 1

    async def test_a_retry_keeps_its_key(self, world: World) -> None:
        await world.enqueue(new(key="k"))
        [job] = (await world.claim()).jobs
        await world.backend.jobs.release(ALICE, [fence(job)])
        with pytest.raises(DuplicateJobError):
            await world.enqueue(new(key="k"))

    async def test_skip(self, world: World) -> None:
        [first] = await world.enqueue_ids(new(key="taken", priority=1))
        ids = await world.enqueue(
            new(key="taken", priority=9), new(), new(key="fresh"), new(key="fresh"),
            on_conflict="skip",
        )  # fmt: skip
        assert [job_id is None for job_id in ids] == [True, False, False, True]
        jobs = (await world.claim()).jobs
        assert ids_of(jobs) == [first, ids[1], ids[2]]
        assert jobs[0].priority == 1
        log = await world.backend.jobs.log()
        assert [x.job_id for x in log if x.status == "queued"] == ids_of(jobs)

    async def test_update_priority_raises_and_never_lowers(self, world: World) -> None:
        ids = await world.enqueue_ids(new(key="low", priority=1), new(key="high", priority=8))
        got = await world.enqueue(
            new(key="low", priority=5), new(key="high", priority=5), new(key="new", priority=6),
            on_conflict="update_priority",
        )  # fmt: skip
        assert got[:2] == ids
        jobs = (await world.claim()).jobs
        assert [(job.id, job.priority) for job in jobs] == [(ids[1], 8), (got[2], 6), (ids[0], 5)]
        queued = [x.job_id for x in await world.backend.jobs.log() if x.status == "queued"]
        assert queued == [*ids, got[2]]

    async def test_update_priority_of_a_job_that_was_passed_over(self, world: World) -> None:
        await world.enqueue(new(priority=9), new(priority=1), new(key="k"))
        assert [job.priority for job in (await world.claim(batch=1)).jobs] == [9]
        await world.enqueue(new(key="k", priority=5), on_conflict="update_priority")
        assert [job.priority for job in (await world.claim()).jobs] == [5, 1]

    async def test_update_priority_of_a_running_job(self, world: World) -> None:
        await world.enqueue(new(key="k"))
        [job] = (await world.claim()).jobs
        assert await world.enqueue(new(key="k", priority=4), on_conflict="update_priority") == [
            job.id
        ]
        assert await world.backend.jobs.release(ALICE, [fence(job)]) == {job.id}
        [again] = (await world.claim()).jobs
        assert again.priority == 4

    async def test_update_priority_with_a_key_given_twice(self, world: World) -> None:
        first, plain, second, third = await world.enqueue(
            new("a", b"1", key="k", priority=2), new(), new("b", b"2", key="k", priority=5),
            new("b", b"3", key="k", priority=1), on_conflict="update_priority",
        )  # fmt: skip
        assert first == second == third != plain
        jobs = (await world.claim()).jobs
        assert [(job.payload, job.priority) for job in jobs] == [(b"1", 5), (None, 0)]

    @pytest.mark.parametrize("on_conflict", ["skip", "update_priority"])
    async def test_the_order_of_keys_is_not_that_of_jobs(
        self, world: World, on_conflict: OnConflict
    ) -> None:
        jobs = [new(payload=b"%d" % n, key=f"k{9 - n}" if n % 3 else None) for n in range(9)]
        ids = await world.enqueue(*jobs, on_conflict=on_conflict)
        known = [job_id for job_id in ids if job_id is not None]
        assert len(known) == 9
        assert known == sorted(known)
        assert [entry.job_id for entry in await world.backend.jobs.log()] == known
        claimed = (await world.claim()).jobs
        assert ids_of(claimed) == known
        assert [job.payload for job in claimed] == [b"%d" % n for n in range(9)]
