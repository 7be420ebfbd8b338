"""The contract of what users do to jobs from outside: cancel, requeue, clear, look; every store."""

from __future__ import annotations

from datetime import timedelta

from pgq_trio.model.outcomes import Outcome
from pgq_trio.model.wire import CancellationRequested
from pgq_trio.models import QueueStatistics
from tests.store.world import ALICE, UPDATED, World, fence, ids_of, new


class TestCancel:
    async def test_in_any_state(self, world: World) -> None:
        held = await world.claimed_one()
        await world.finish([held], Outcome("failed"))
        picked = await world.claimed_one()
        queued, deferred = await world.enqueue_ids(new(), new(after=timedelta(hours=1)))
        ids = {held.id, picked.id, queued, deferred}
        assert await world.backend.jobs.cancel(ids) == ids
        assert await world.backend.jobs.queue_size() == []
        assert set((await world.backend.jobs.job_status(ids)).values()) == {"canceled"}
        assert await world.statuses(queued) == ["queued", "canceled"]

    async def test_the_workers_are_told_which(self, world: World) -> None:
        ids = await world.enqueue_ids(new(), new(), new())
        async with world.listening() as heard:
            await world.backend.jobs.cancel([ids[2], ids[0], 999_999])
            assert await heard.until_marker() == [CancellationRequested((ids[0], ids[2]))]

    async def test_any_number_at_once(self, world: World) -> None:
        ids = await world.enqueue_ids(*(new() for _ in range(3000)))
        async with world.listening() as heard:
            assert await world.backend.jobs.cancel(ids) == set(ids)
            events = await heard.until_marker()
        told: list[int] = []
        for event in events:
            assert isinstance(event, CancellationRequested)
            told.extend(event.ids)
        assert sorted(told) == ids
        assert len(events) > 1

    async def test_unknown_ids_and_none_at_all(self, world: World) -> None:
        [job_id] = await world.enqueue_ids(new())
        async with world.listening() as heard:
            assert await world.backend.jobs.cancel([job_id + 1, 2**62]) == set()
            assert await world.backend.jobs.cancel([]) == set()
            assert await heard.until_marker() == []
        assert await world.backend.jobs.cancel([job_id, job_id]) == {job_id}


class TestRequeue:
    async def test_a_held_job_runs_again_as_if_new(self, world: World) -> None:
        job = await world.claimed_one()
        await world.finish([job], Outcome("retry"))
        [job] = (await world.claim()).jobs
        await world.finish([job], Outcome("failed"))
        assert await world.backend.jobs.requeue([job.id]) == {job.id}
        [again] = (await world.claim()).jobs
        assert (again.id, again.attempts) == (job.id, 0)
        assert (await world.statuses(job.id))[-3:] == ["failed", "queued", "picked"]

    async def test_only_held_jobs(self, world: World) -> None:
        picked = await world.claimed_one()
        [queued] = await world.enqueue_ids(new(after=timedelta(hours=1)))
        ids = [picked.id, queued, 999_999]
        assert await world.backend.jobs.requeue(ids) == set()
        assert await world.backend.jobs.requeue([]) == set()
        assert (await world.claim()).jobs == []
        assert await world.finish([picked]) == {picked.id}

    async def test_the_workers_are_woken(self, world: World) -> None:
        job = await world.claimed_one()
        await world.finish([job], Outcome("failed"))
        async with world.listening() as heard:
            await world.backend.jobs.requeue([job.id])
            assert await heard.until_marker() == [UPDATED]
            await world.backend.jobs.requeue([job.id])
            assert await heard.until_marker() == []

    async def test_one_conflicting_key_among_many(self, world: World) -> None:
        keys = [f"k{n}" for n in range(50)]
        await world.enqueue(*(new(key=key) for key in keys))
        held = (await world.claim()).jobs
        await world.finish(held, Outcome("failed"))
        await world.enqueue(new("b", key="k7"))
        requeued = await world.backend.jobs.requeue(ids_of(held))
        assert requeued == {job.id for job in held if job.dedupe_key != "k7"}

    async def test_a_taken_key_stays_held(self, world: World) -> None:
        for key in ("k", "k", "free", None):
            await world.enqueue(new(key=key))
            await world.finish((await world.claim()).jobs, Outcome("failed"))
        held = await world.backend.jobs.failed_jobs(limit=9)
        ids = sorted(ids_of(held))
        await world.enqueue(new("b", key="free"))
        # Of two held jobs with one key the older one goes.
        assert await world.backend.jobs.requeue(ids) == {ids[0], ids[3]}
        assert sorted(ids_of(await world.backend.jobs.failed_jobs(limit=9))) == [ids[1], ids[2]]


class TestClear:
    async def test_some_entrypoints(self, world: World) -> None:
        picked = await world.claimed_one()
        ids = await world.enqueue_ids(new("a"), new("b"), new("c"))
        assert await world.backend.jobs.clear(["a", "c", "unknown"]) == 3
        assert ids_of((await world.claim()).jobs) == [ids[1]]
        states = await world.backend.jobs.job_status([picked.id, *ids])
        assert [states[job_id] for job_id in (picked.id, ids[0], ids[2])] == ["deleted"] * 3

    async def test_nothing_and_everything(self, world: World) -> None:
        await world.enqueue(new("a"), new("b"))
        assert await world.backend.jobs.clear([]) == 0
        assert await world.queued() == 2
        assert await world.backend.jobs.clear(None) == 2
        assert await world.backend.jobs.clear(None) == 0
        assert await world.backend.jobs.queue_size() == []

    async def test_the_log(self, world: World) -> None:
        ids = await world.enqueue_ids(new("a"), new("b"), new("a"))
        assert await world.backend.jobs.clear_log([]) == 0
        assert await world.backend.jobs.clear_log(["a"]) == 2
        assert [entry.job_id for entry in await world.backend.jobs.log()] == [ids[1]]
        assert await world.backend.jobs.clear_log(None) == 1
        assert await world.backend.jobs.log() == []
        assert await world.queued() == 3


class TestLook:
    async def test_queue_size(self, world: World) -> None:
        await world.enqueue(
            new("b"), new("B", priority=1), new("a", priority=2), new("a", priority=-1), new("a")
        )
        await world.claim({"b": 0})
        await world.enqueue(new("b"), new("b"))
        expected = [
            ("B", 1, "queued", 1),
            ("a", -1, "queued", 1),
            ("a", 0, "queued", 1),
            ("a", 2, "queued", 1),
            ("b", 0, "queued", 2),
            ("b", 0, "picked", 1),
        ]
        assert await world.backend.jobs.queue_size() == [
            QueueStatistics(entrypoint=entrypoint, priority=priority, status=status, count=count)  # type: ignore[arg-type]
            for entrypoint, priority, status, count in expected
        ]

    async def test_log(self, world: World) -> None:
        first, second = await world.enqueue_ids(new(), new())
        await world.finish((await world.claim()).jobs)
        log = await world.backend.jobs.log()
        assert [(x.job_id, x.status) for x in log[:2]] == [(first, "queued"), (second, "queued")]
        assert [x.created for x in log] == sorted(x.created for x in log)
        assert await world.backend.jobs.log(limit=3) == log[-3:]
        assert await world.backend.jobs.log(limit=0) == []
        assert await world.backend.jobs.log(limit=99) == log
        of_first = [x for x in log if x.job_id == first]
        assert await world.backend.jobs.log(job_id=first) == of_first
        assert await world.backend.jobs.log(job_id=first, limit=1) == of_first[-1:]

    async def test_job_status(self, world: World) -> None:
        done = await world.claimed_one()
        await world.finish([done])
        held = await world.claimed_one()
        await world.finish([held], Outcome("failed"))
        picked = await world.claimed_one()
        [queued] = await world.enqueue_ids(new())
        ids = [done.id, held.id, picked.id, queued]
        expected = dict(zip(ids, ["successful", "failed", "picked", "queued"], strict=True))
        assert await world.backend.jobs.job_status([*ids, 999_999]) == expected
        assert await world.backend.jobs.job_status([]) == {}

    async def test_the_row_knows_better_than_the_log(self, world: World) -> None:
        job = await world.claimed_one()
        await world.backend.jobs.clear_log(None)
        assert await world.backend.jobs.job_status([job.id]) == {job.id: "picked"}
        await world.backend.jobs.release(ALICE, [fence(job)])
        assert await world.backend.jobs.job_status([job.id]) == {job.id: "queued"}

    async def test_failed_jobs(self, world: World) -> None:
        ids = []
        for _ in range(3):
            job = await world.claimed_one()
            ids.append(job.id)
            await world.finish([job], Outcome("failed"))
        await world.enqueue(new())
        assert ids_of(await world.backend.jobs.failed_jobs(limit=9)) == ids[::-1]
        assert ids_of(await world.backend.jobs.failed_jobs(limit=2)) == ids[:0:-1]
        assert ids_of(await world.backend.jobs.failed_jobs(limit=9, order="ASC")) == ids
        assert ids_of(await world.backend.jobs.failed_jobs(limit=2, order="ASC")) == ids[:2]
        assert await world.backend.jobs.failed_jobs(limit=0) == []


class TestHistory:
    """With `history="outcomes"` only what ended is logged."""

    async def test_only_outcomes_are_logged(self, outcomes_world: World) -> None:
        world = outcomes_world
        ids = await world.enqueue_ids(*(new() for _ in range(4)))
        await world.enqueue(new(key="k"), on_conflict="skip")
        await world.enqueue(new(key="l"), on_conflict="update_priority")
        jobs = (await world.claim()).jobs
        await world.backend.jobs.release(ALICE, [fence(jobs[0])])
        await world.claim({"a": 9})
        assert await world.backend.jobs.log() == []
        await world.finish([jobs[1]])
        await world.finish([jobs[2]], Outcome("failed"))
        await world.backend.jobs.requeue([jobs[2].id])
        await world.backend.jobs.cancel([jobs[3].id])
        log = await world.backend.jobs.log()
        assert [(x.job_id, x.status) for x in log] == [
            (ids[1], "successful"),
            (ids[2], "failed"),
            (ids[3], "canceled"),
        ]


class TestNotifier:
    async def test_every_listener_hears_everything(self, world: World) -> None:
        async with world.listening() as first, world.listening() as second:
            await world.enqueue(new())
            assert await first.next() == await second.next()

    async def test_nothing_from_before(self, world: World) -> None:
        await world.enqueue(new())
        async with world.listening() as heard:
            assert await heard.until_marker() == []

    async def test_listening_again(self, world: World) -> None:
        for _ in range(2):
            async with world.listening() as heard:
                assert await heard.until_marker() == []

    async def test_the_schema_is_there(self, world: World) -> None:
        assert await world.backend.schema.missing() == []
        assert await world.backend.schema.verify() == []
