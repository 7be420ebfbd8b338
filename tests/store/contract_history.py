"""The contract of keeping a queue's history: folding, deleting, leaving out; every store."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgq_trio.model.outcomes import Outcome
from pgq_trio.model.retention import FOREVER, Retention
from pgq_trio.types import JobStatus
from tests.store.contract_insights import DAY, EXCEPTION, HOUR, TRACEBACK, insights_of, run
from tests.store.world import World, new


async def fold(world: World) -> int:
    """Fold everything; return how many rows were counted."""
    counted = 0
    while not (step := await insights_of(world).fold()).is_last:
        counted += step.rows
    assert not step.is_busy
    return counted + step.rows


async def expire(world: World, retention: Retention, *, limit: int = 1000) -> int:
    """Delete everything that is too old; return how many log rows went."""
    deleted, steps = 0, 0
    while not (step := await insights_of(world).expire(retention, limit=limit)).is_last:
        assert not step.is_busy
        deleted += step.rows
        steps += 1
        assert steps < 1000, "it never ends"
    return deleted + step.rows


async def nothing_is_left(world: World, retention: Retention) -> None:
    """There is nothing to do, or just one more look: at a log whose newest rows have gone."""
    if await insights_of(world).chores(retention):
        assert await expire(world, retention) == 0
        assert await fold(world) == 0
        assert await insights_of(world).chores(retention) is False


async def counts(world: World) -> dict[tuple[str, JobStatus], int]:
    rows = await insights_of(world).throughput(last=None)
    return {(row.entrypoint, row.status): row.total_count for row in rows}


class TestFold:
    async def test_each_row_is_counted_once(self, world: World) -> None:
        await run(world)
        await run(world, EXCEPTION)
        assert await insights_of(world).unfolded() == 6
        assert await fold(world) == 6
        assert await fold(world) == 0
        assert await insights_of(world).unfolded() == 0
        assert all(entry.aggregated for entry in await world.backend.jobs.log())
        expected = {
            ("a", "queued"): 2,
            ("a", "picked"): 2,
            ("a", "successful"): 1,
            ("a", "exception"): 1,
        }
        assert await counts(world) == expected
        await run(world)
        assert await fold(world) == 3
        assert await counts(world) == {
            ("a", "queued"): 3,
            ("a", "picked"): 3,
            ("a", "successful"): 2,
            ("a", "exception"): 1,
        }

    async def test_in_batches(self, world: World) -> None:
        await world.enqueue(*(new() for _ in range(7)))
        steps = []
        while not (step := await insights_of(world).fold(limit=3)).is_last:
            steps.append(step.rows)
        steps.append(step.rows)
        assert [rows for rows in steps if rows] == [3, 3, 1]
        assert await counts(world) == {("a", "queued"): 7}

    async def test_an_emptied_log_begins_anew(self, world: World) -> None:
        await run(world)
        await fold(world)
        await world.backend.jobs.clear_log(None)
        assert await fold(world) == 0
        await run(world)
        assert await fold(world) == 3
        assert await counts(world) == {
            ("a", "queued"): 2,
            ("a", "picked"): 2,
            ("a", "successful"): 2,
        }

    async def test_statistics_by_second_priority_status_and_entrypoint(self, world: World) -> None:
        await world.enqueue(new("b", priority=2), new("b", priority=2), new("b", priority=-1))
        await world.pass_time(HOUR)
        await world.enqueue(new("a"))
        await fold(world)
        rows = await insights_of(world).log_statistics(limit=None, last=None)
        assert {(r.entrypoint, r.priority, r.status, r.count) for r in rows} == {
            ("a", 0, "queued", 1),
            ("b", 2, "queued", 2),
            ("b", -1, "queued", 1),
        }
        assert all(row.created.microsecond == 0 for row in rows)

    async def test_newest_statistics_first(self, world: World) -> None:
        for name in ("first", "second", "third"):
            await world.enqueue(new(name))
            await fold(world)
            await world.pass_time(HOUR)
        read = insights_of(world).log_statistics
        names = [row.entrypoint for row in await read(limit=None, last=None)]
        assert names == ["third", "second", "first"]
        assert [row.entrypoint for row in await read(limit=2, last=None)] == names[:2]
        assert await read(limit=0, last=None) == []
        of_last = await read(limit=None, last=2.5 * HOUR)
        assert [row.entrypoint for row in of_last] == names[:2]
        assert await read(limit=None, last=0.5 * HOUR) == []

    async def test_throughput(self, world: World) -> None:
        await run(world, entrypoint="B")
        await fold(world)
        await world.pass_time(HOUR)
        await run(world, entrypoint="a")
        await run(world, EXCEPTION, entrypoint="a")
        await fold(world)
        rows = await insights_of(world).throughput(last=None)
        assert [(r.entrypoint, r.status, r.total_count) for r in rows] == [
            ("B", "queued", 1),
            ("B", "picked", 1),
            ("B", "successful", 1),
            ("a", "queued", 2),
            ("a", "picked", 2),
            ("a", "successful", 1),
            ("a", "exception", 1),
        ]
        recent = await insights_of(world).throughput(last=0.5 * HOUR)
        assert {row.entrypoint for row in recent} == {"a"}

    async def test_throughput_by_minute(self, world: World) -> None:
        for name in ("a", "b"):
            await world.enqueue(new(name), new(name, priority=1))
            await fold(world)
            await world.pass_time(HOUR)
        buckets = await insights_of(world).throughput_timeseries(last=3 * HOUR)
        assert [(b.entrypoint, b.status, b.count) for b in buckets] == [
            ("a", "queued", 2),
            ("b", "queued", 2),
        ]
        assert all(b.bucket.second == b.bucket.microsecond == 0 for b in buckets)
        assert buckets[1].bucket - buckets[0].bucket >= timedelta(minutes=59)
        assert len(await insights_of(world).throughput_timeseries(last=1.5 * HOUR)) == 1

    async def test_clear_statistics(self, world: World) -> None:
        await world.enqueue(new("a"), new("b"), new("c"))
        await fold(world)
        assert await insights_of(world).clear_statistics([]) == 0
        assert await insights_of(world).clear_statistics(["a", "unknown"]) == 1
        assert await counts(world) == {("b", "queued"): 1, ("c", "queued"): 1}
        assert await insights_of(world).clear_statistics(None) == 2
        assert await counts(world) == {}
        assert await fold(world) == 0  # nothing is counted a second time


class TestExpire:
    async def test_what_is_too_old_goes(self, world: World) -> None:
        old = await run(world)
        await world.pass_time(2 * DAY)
        young = await run(world)
        retention = Retention(default=DAY)
        assert await insights_of(world).expired_estimate(retention) == 3
        assert await expire(world, retention) == 3
        assert await world.statuses(old) == []
        assert await world.statuses(young) == ["queued", "picked", "successful"]
        assert await expire(world, retention) == 0
        assert await insights_of(world).expired_estimate(retention) == 0
        states = await world.backend.jobs.job_status([old, young])
        assert states == {young: "successful"}

    async def test_it_is_counted_before_it_goes(self, world: World) -> None:
        await run(world)
        await fold(world)
        await run(world, EXCEPTION)
        await world.pass_time(DAY)
        assert await expire(world, Retention(default=HOUR)) == 6
        assert await counts(world) == {
            ("a", "queued"): 2,
            ("a", "picked"): 2,
            ("a", "successful"): 1,
            ("a", "exception"): 1,
        }
        assert await fold(world) == 0

    @pytest.mark.parametrize("limit", [1, 2, 3, 1000])
    async def test_in_batches(self, world: World, limit: int) -> None:
        for _ in range(3):
            await run(world)
        await world.pass_time(DAY)
        [waiting] = await world.enqueue_ids(new())
        first = await insights_of(world).expire(Retention(default=HOUR), limit=limit)
        assert first.rows == min(limit, 9)
        assert first.rows + await expire(world, Retention(default=HOUR), limit=limit) == 9
        assert await world.statuses(waiting) == ["queued"]

    async def test_ages_by_state(self, world: World) -> None:
        good, bad = await run(world), await run(world, EXCEPTION)
        await world.pass_time(2 * DAY)
        [waiting] = await world.enqueue_ids(new())
        retention = Retention(default=DAY, exception=timedelta(days=30))
        for limit in (1, 1000):
            await expire(world, retention, limit=limit)
            assert await world.statuses(good) == []
            assert await world.statuses(bad) == ["exception"]
            assert await world.statuses(waiting) == ["queued"]
        await world.pass_time(29 * DAY)
        await expire(world, retention)
        assert await world.backend.jobs.log() == []
        assert await world.queued() == 1

    async def test_for_ever(self, world: World) -> None:
        good, bad = await run(world), await run(world, EXCEPTION)
        await world.pass_time(100 * DAY)
        await expire(world, Retention(default=HOUR, exception=FOREVER))
        assert await world.statuses(good) == []
        assert await world.statuses(bad) == ["exception"]
        assert await expire(world, Retention()) == 0
        assert await insights_of(world).chores(Retention(exception=FOREVER)) is True  # to fold

    async def test_only_one_state(self, world: World) -> None:
        job_id = await run(world, EXCEPTION)
        await world.pass_time(DAY)
        await expire(world, Retention(picked=HOUR))
        assert await world.statuses(job_id) == ["queued", "exception"]

    async def test_with_the_outcome_of_a_job_its_earlier_rows_go(self, world: World) -> None:
        """The newest row tells the state: an ended job must not turn into a lost one."""
        ended = await world.claimed_one()
        await world.finish([ended], Outcome("failed"))
        await world.backend.jobs.requeue([ended.id])
        await world.finish((await world.claim()).jobs)
        held = await world.claimed_one()
        await world.finish([held], Outcome("failed"))
        await world.pass_time(DAY)
        await expire(world, Retention(successful=HOUR, canceled=2 * DAY))
        assert await world.statuses(ended.id) == []
        assert await world.statuses(held.id) == ["queued", "picked", "failed"]
        assert await world.backend.jobs.job_status([ended.id, held.id]) == {held.id: "failed"}
        assert (await counts(world))["a", "failed"] == 1  # counted as well

    async def test_statistics_have_their_own_age(self, world: World) -> None:
        await world.enqueue(new("old"))
        await fold(world)
        await world.pass_time(2 * DAY)
        await world.enqueue(new("young"))
        await fold(world)
        await expire(world, Retention(default=HOUR))
        assert set(await counts(world)) == {("old", "queued"), ("young", "queued")}
        await expire(world, Retention(statistics=DAY))
        assert await counts(world) == {("young", "queued"): 1}
        assert len(await world.backend.jobs.log()) == 1

    async def test_chores(self, world: World) -> None:
        retention = Retention(default=DAY, exception=3 * DAY, statistics=10 * DAY)
        chores = insights_of(world).chores
        assert await chores(retention) is False
        await run(world, EXCEPTION)
        assert await chores(retention) is True
        assert await chores(None) is True
        await fold(world)
        assert await chores(retention) is False
        assert await chores(None) is False
        for days in (2, 2, 7):
            await world.pass_time(days * DAY)
            assert await chores(None) is False
            assert await chores(retention) is True
            await expire(world, retention)
            await nothing_is_left(world, retention)
        assert await world.backend.jobs.log() == []
        assert await counts(world) == {}

    async def test_chores_pass_over_what_is_kept(self, world: World) -> None:
        """Rows that are kept for longer do not hide what is to be deleted behind them."""
        retention = Retention(default=DAY, exception=FOREVER)
        for _ in range(60):
            await run(world, EXCEPTION)
        for _ in range(2):
            good = await run(world)
            await fold(world)
            await world.pass_time(2 * DAY)
            assert await insights_of(world).chores(retention) is True
            await expire(world, retention, limit=50)
            assert await world.statuses(good) == []
            await nothing_is_left(world, retention)
        assert len(await world.backend.jobs.log()) == 60


class TestOutcomesOnly:
    """What `history="outcomes"` leaves out, and what it must not."""

    async def test_a_retry_is_logged_with_its_traceback(self, outcomes_world: World) -> None:
        world = outcomes_world
        job = await world.claimed_one()
        await world.finish([job], Outcome("retry", traceback=TRACEBACK))
        [job] = (await world.claim()).jobs
        await world.finish([job])
        retry, end = await insights_of(world).job_log(job.id, limit=9)
        assert (retry.status, end.status) == ("queued", "successful")
        assert retry.traceback is not None
        assert retry.traceback.exception_message == "no"

    async def test_the_state_of_a_job_is_known_all_the_same(self, outcomes_world: World) -> None:
        world = outcomes_world
        picked = await world.claimed_one()
        [queued] = await world.enqueue_ids(new())
        assert await world.backend.jobs.log() == []
        states = await world.backend.jobs.job_status([picked.id, queued])
        assert states == {picked.id: "picked", queued: "queued"}
        await world.finish([picked])
        [again] = (await world.claim()).jobs
        await world.finish([again], Outcome("retry", traceback=TRACEBACK))
        states = await world.backend.jobs.job_status([picked.id, queued])
        assert states == {picked.id: "successful", queued: "queued"}

    async def test_outcomes_are_counted_and_durations_are_not(self, outcomes_world: World) -> None:
        world = outcomes_world
        await run(world)
        await run(world, EXCEPTION)
        assert await fold(world) == 2
        assert await counts(world) == {("a", "successful"): 1, ("a", "exception"): 1}
        assert await insights_of(world).job_durations(last=HOUR) == []

    async def test_retention(self, outcomes_world: World) -> None:
        world = outcomes_world
        good, bad = await run(world), await run(world, EXCEPTION)
        await world.pass_time(2 * DAY)
        assert await expire(world, Retention(default=DAY, exception=FOREVER)) == 1
        assert await world.backend.jobs.job_status([good, bad]) == {bad: "exception"}
