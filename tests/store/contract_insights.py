"""The contract of what can be learned about a queue; every store."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgq_trio.abc import InsightStore
from pgq_trio.model.outcomes import SUCCESSFUL, Outcome
from pgq_trio.models import Job
from tests.store.world import ALICE, BOB, World, fence, ids_of, new

HOUR = 3600.0
DAY = 24 * HOUR

TRACEBACK = (
    '{"job_id": 1, "timestamp": "2030-01-01T00:00:00+00:00", "exception_type": "ValueError",'
    ' "exception_message": "no", "traceback": "...", "additional_context": null}'
)
EXCEPTION = Outcome("exception", traceback=TRACEBACK)


def insights_of(world: World) -> InsightStore:
    return world.backend.insights


async def run(world: World, outcome: Outcome = SUCCESSFUL, entrypoint: str = "a") -> int:
    """Enqueue, claim and finish a job; return its id."""
    [job_id] = await world.enqueue_ids(new(entrypoint))
    [job] = (await world.claim({entrypoint: 0})).jobs
    assert await world.finish([job], outcome) == {job_id}
    return job_id


class TestInsights:
    async def test_queue_age(self, world: World) -> None:
        assert await insights_of(world).queue_age() == []
        await world.enqueue(new("b"), new("B"))
        await world.claim({"B": 0})
        await world.pass_time(HOUR)
        await world.enqueue(new("b"), new("a", after=timedelta(hours=1)))
        a, b = await insights_of(world).queue_age()
        assert (a.entrypoint, a.queued_count) == ("a", 1)
        assert (b.entrypoint, b.queued_count) == ("b", 2)
        assert b.oldest_age_seconds == pytest.approx(HOUR, abs=60)
        assert b.avg_age_seconds == pytest.approx(HOUR / 2, abs=60)
        assert a.oldest_age_seconds == pytest.approx(0, abs=60)
        assert a.oldest_created - b.oldest_created >= timedelta(minutes=59)

    async def test_job_durations(self, world: World) -> None:
        first = await world.claimed_one()
        await world.pass_time(10)
        [second] = (await world.claim({"b": 0})).jobs if await world.enqueue(new("b")) else []
        await world.pass_time(30)
        await world.finish([first, second])
        third = await world.claimed_one()
        await world.pass_time(20)
        await world.finish([third], Outcome("retry"))  # no end of a job
        [third] = (await world.claim()).jobs
        await world.finish([third], EXCEPTION)
        a, b = await insights_of(world).job_durations(last=HOUR)
        assert (a.entrypoint, a.completed) == ("a", 2)
        assert (b.entrypoint, b.completed) == ("b", 1)
        assert a.max_seconds == pytest.approx(40, abs=5)
        assert a.p50_seconds == pytest.approx(20, abs=5)
        assert a.p95_seconds == pytest.approx(38, abs=5)
        assert a.p99_seconds == pytest.approx(39.6, abs=5)
        assert b.p50_seconds == b.p99_seconds == b.max_seconds == pytest.approx(30, abs=5)
        await world.pass_time(DAY)
        assert await insights_of(world).job_durations(last=HOUR) == []

    async def test_a_run_that_began_before_is_left_out(self, world: World) -> None:
        job = await world.claimed_one()
        await world.pass_time(2 * HOUR)
        await world.finish([job])
        assert await insights_of(world).job_durations(last=HOUR) == []
        assert len(await insights_of(world).job_durations(last=3 * HOUR)) == 1

    async def test_active_workers(self, world: World) -> None:
        assert await insights_of(world).active_workers() == []
        await world.enqueue(new("b"), new("a"), new("a"))
        held = (await world.claim({"a": 0, "b": 0}, worker=BOB)).jobs
        await world.pass_time(10)
        await world.backend.jobs.heartbeat(BOB, [fence(held[0])])
        await world.claimed_one(ALICE)
        await world.enqueue(new())
        alice, bob = await insights_of(world).active_workers()
        assert (alice.queue_manager_id, alice.active_jobs) == (ALICE, 1)
        assert (bob.queue_manager_id, bob.active_jobs) == (BOB, 3)
        assert alice.entrypoints == ["a"]
        assert bob.entrypoints == ["a", "b"]
        assert alice.oldest_heartbeat == alice.newest_heartbeat
        assert bob.newest_heartbeat - bob.oldest_heartbeat >= timedelta(seconds=9)

    async def test_stale_jobs(self, world: World) -> None:
        oldest = await world.claimed_one()
        await world.pass_time(100)
        await world.enqueue(new("b"), new("c"))
        [older] = (await world.claim({"b": 0})).jobs
        await world.pass_time(100)
        await world.claim({"c": 0})
        stale = await insights_of(world).stale_jobs(threshold=50, limit=9)
        assert [row.id for row in stale] == [oldest.id, older.id]
        assert stale[0].seconds_since_heartbeat == pytest.approx(200, abs=40)
        assert (stale[0].status, stale[0].queue_manager_id) == ("picked", ALICE)
        assert (stale[0].entrypoint, stale[0].priority) == ("a", 0)
        first = await insights_of(world).stale_jobs(threshold=50, limit=1)
        assert [row.id for row in first] == [oldest.id]
        assert await insights_of(world).stale_jobs(threshold=1000, limit=9) == []

    async def browse(self, world: World, **kwargs: object) -> list[Job]:
        given: dict[str, object] = {"limit": 99, "offset": 0, "statuses": None, "entrypoints": None}
        return await insights_of(world).browse(**(given | kwargs))  # type: ignore[arg-type]

    async def test_browse(self, world: World) -> None:
        ids = await world.enqueue_ids(
            new("a"), new("b", priority=5), new("c", b"payload", headers={"x": 1}), new("a")
        )
        picked = (await world.claim({"b": 0})).jobs
        assert ids_of(picked) == [ids[1]]
        in_order = [ids[1], ids[0], ids[2], ids[3]]
        rows = await self.browse(world)
        assert ids_of(rows) == in_order
        assert rows[0] == picked[0]
        assert (rows[2].payload, rows[2].headers) == (b"payload", {"x": 1})
        assert ids_of(await self.browse(world, limit=2, offset=1)) == in_order[1:3]
        assert await self.browse(world, limit=0) == []
        assert await self.browse(world, offset=99) == []
        assert ids_of(await self.browse(world, statuses=["picked", "failed"])) == [ids[1]]
        assert ids_of(await self.browse(world, entrypoints=["c", "a"])) == in_order[1:]
        found = await self.browse(world, statuses=["queued"], entrypoints=["b"])
        assert found == []

    async def test_one_job(self, world: World) -> None:
        job = await world.claimed_one()
        assert await insights_of(world).job(job.id) == job
        await world.finish([job])
        assert await insights_of(world).job(job.id) is None
        assert await insights_of(world).job(2**62) is None

    async def test_the_log_of_a_job(self, world: World) -> None:
        job_id = await run(world, EXCEPTION)
        await run(world)
        rows = await insights_of(world).job_log(job_id, limit=9)
        assert [row.status for row in rows] == ["queued", "picked", "exception"]
        assert {row.job_id for row in rows} == {job_id}
        assert rows[-1].traceback is not None
        assert rows[-1].traceback.exception_type == "ValueError"
        assert await insights_of(world).job_log(job_id, limit=2) == rows[:2]
        assert await insights_of(world).job_log(job_id, limit=0) == []
        assert await insights_of(world).job_log(2**62, limit=9) == []

    async def test_failures(self, world: World) -> None:
        bad = await run(world, EXCEPTION)
        await run(world)
        held = await run(world, Outcome("failed"))
        rows = await insights_of(world).exception_log(limit=9)
        assert [(row.job_id, row.status) for row in rows] == [(held, "failed"), (bad, "exception")]
        assert rows[1].traceback is not None
        assert await insights_of(world).exception_log(limit=1) == rows[:1]
        assert await insights_of(world).exception_log(limit=0) == []

    async def test_tables(self, world: World) -> None:
        rows = await insights_of(world).tables()
        settings = world.backend.settings
        assert [row.table_name for row in rows] == sorted(
            [
                settings.queue_table,
                settings.queue_table_log,
                settings.statistics_table,
                settings.schedules_table,
            ]
        )
        assert all(row.persistence in {"LOGGED", "UNLOGGED"} for row in rows)
        assert all(row.estimated_rows >= 0 and row.total_size for row in rows)
