"""The contract of `ScheduleStore`, for every store."""

from __future__ import annotations

from datetime import datetime, timedelta

import anyio

from pgq_trio.abc import NewSchedule, ScheduleStore
from pgq_trio.model.wire import TableChanged
from pgq_trio.models import Schedule
from tests.store.world import Heard, World

LEASE = 30.0


async def added(store: ScheduleStore, *, due_in: float = -10, name: str = "s") -> Schedule:
    now = (await store.snapshot()).now
    await store.add(
        [
            NewSchedule(
                entrypoint=name,
                expression="* * * * *",
                next_run=now + timedelta(seconds=due_in),
            )
        ]
    )
    return await current(store, name)


async def current(store: ScheduleStore, name: str = "s") -> Schedule:
    [row] = [x for x in (await store.snapshot()).schedules if x.entrypoint == name]
    return row


async def started(store: ScheduleStore, name: str = "s", *, due_in: float = 60) -> Schedule:
    """Claim a schedule whose next fire time is then that far from now."""
    row = await added(store, name=name)
    next_run = (await store.snapshot()).now + timedelta(seconds=due_in)
    claimed = await store.claim(row, next_run=next_run, heartbeat_timeout=LEASE)
    assert claimed is not None
    return claimed


async def may_claim(store: ScheduleStore, name: str = "s") -> bool:
    """Try to claim a schedule as it is now."""
    row = await current(store, name)
    next_run = later(row.next_run)
    return await store.claim(row, next_run=next_run, heartbeat_timeout=LEASE) is not None


def later(time: datetime, seconds: float = 60) -> datetime:
    return time + timedelta(seconds=seconds)


async def wake_ups(heard: Heard) -> int:
    """Return how often schedulers were woken up to now, and nobody else."""
    table = heard.world.backend.settings.schedules_table
    events = await heard.until_marker()
    for event in events:
        assert isinstance(event, TableChanged)
        assert (event.operation, event.table) == ("update", table)
    return len(events)


class TestSchedule:
    async def test_the_end_of_a_run_is_later_than_its_claim_however_fast(
        self, world: World
    ) -> None:
        store = world.backend.schedules
        claimed = await started(store)
        ended = await store.finish(claimed)
        assert ended is not None
        assert ended.updated > claimed.updated
        assert ended.updated > claimed.heartbeat

    async def test_a_snapshot_is_ordered_and_tells_the_time(self, world: World) -> None:
        store = world.backend.schedules
        empty = await store.snapshot()
        assert empty.schedules == []
        for name in "cab":
            await added(store, name=name)
        snapshot = await store.snapshot()
        assert [row.entrypoint for row in snapshot.schedules] == list("cab")
        ids = [row.id for row in snapshot.schedules]
        assert ids == sorted(ids)
        assert snapshot.now > empty.now
        row = snapshot.schedules[0]
        assert (row.status, row.last_run) == ("queued", None)
        assert empty.now < row.created <= snapshot.now

    async def test_adding_leaves_others_as_they_are(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        twin = NewSchedule(row.entrypoint, row.expression, later(row.next_run))
        other = NewSchedule(row.entrypoint, "1 * * * *", row.next_run)
        await store.add([twin, other, other])
        rows = (await store.snapshot()).schedules
        assert rows[0] == row
        assert [x.expression for x in rows] == ["* * * * *", "1 * * * *"]
        await store.add([])

    async def test_fire_times_are_whole_seconds(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store, due_in=-10.4)
        assert row.next_run.microsecond == 0
        odd = row.next_run.replace(microsecond=999_999) + timedelta(seconds=60)
        claimed = await store.claim(row, next_run=odd, heartbeat_timeout=LEASE)
        assert claimed is not None
        assert claimed.next_run == odd.replace(microsecond=0)

    async def test_a_due_schedule_is_claimed_once(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        assert claimed.status == "picked"
        assert claimed.updated == claimed.heartbeat > row.updated
        assert claimed.next_run == later(row.next_run)
        assert claimed.id == row.id
        assert claimed == await current(store)
        for seen in (row, claimed):
            again = await store.claim(seen, next_run=later(row.next_run), heartbeat_timeout=LEASE)
            assert again is None

    async def test_once_under_twenty_claimers(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        won: list[Schedule] = []

        async def claimer() -> None:
            claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
            if claimed is not None:
                won.append(claimed)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(claimer)
        assert len(won) == 1

    async def test_not_before_it_is_due(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store, due_in=30)
        claim = {"next_run": later(row.next_run), "heartbeat_timeout": LEASE}
        assert await store.claim(row, **claim) is None  # type: ignore[arg-type]
        await world.pass_time(31)
        assert await store.claim(await current(store), **claim) is not None  # type: ignore[arg-type]

    async def test_not_if_the_row_has_changed(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        await store.finish(claimed, next_run=row.next_run, ran=False)  # due at the very same time
        next_run = later(row.next_run)
        assert await store.claim(row, next_run=next_run, heartbeat_timeout=LEASE) is None
        seen = await current(store)
        assert await store.claim(seen, next_run=next_run, heartbeat_timeout=LEASE) is not None

    async def test_a_stale_fire_is_taken_over(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        await world.pass_time(LEASE - 5)
        assert await store.heartbeat([claimed]) == {claimed.id}
        await world.pass_time(LEASE - 5)
        seen = await current(store)
        assert seen.updated == claimed.updated
        next_run = later(seen.next_run)
        assert await store.claim(seen, next_run=next_run, heartbeat_timeout=LEASE) is None
        await world.pass_time(10)
        seen = await current(store)
        taken = await store.claim(seen, next_run=next_run, heartbeat_timeout=LEASE)
        assert taken is not None
        assert await store.heartbeat([claimed]) == set()
        assert await store.finish(claimed) is None
        assert await store.finish(taken) is not None

    async def test_finish(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        done = await store.finish(claimed)
        assert done == await current(store)
        assert done.status == "queued"
        assert done.last_run is not None
        assert done.last_run > claimed.updated
        assert done.next_run == claimed.next_run
        assert await store.finish(claimed) is None
        assert await store.finish(done) is None
        assert await store.heartbeat([claimed, done]) == set()
        assert await store.heartbeat([]) == set()

    async def test_an_interrupted_fire_is_due_again(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        again = await store.finish(claimed, next_run=row.next_run, ran=False)
        assert again == await current(store)
        assert (again.status, again.last_run, again.next_run) == ("queued", None, row.next_run)

    async def test_an_end_may_move_the_next_fire_time(self, world: World) -> None:
        store = world.backend.schedules
        claimed = await started(store)
        done = await store.finish(claimed, next_run=later(claimed.next_run))
        assert done is not None
        assert (done.status, done.next_run) == ("queued", later(claimed.next_run))
        assert done.last_run is not None

    async def test_a_fire_that_was_left_out_has_not_run(self, world: World) -> None:
        store = world.backend.schedules
        claimed = await started(store)
        done = await store.finish(claimed, ran=False)
        assert done is not None
        assert (done.status, done.last_run, done.next_run) == ("queued", None, claimed.next_run)

    async def test_delete(self, world: World) -> None:
        store = world.backend.schedules
        rows = [await added(store, name=name) for name in "abcd"]
        assert await store.delete() == 0
        assert await store.delete(ids=[rows[0].id, 999_999], entrypoints=["b", "x"]) == 2
        assert [row.entrypoint for row in (await store.snapshot()).schedules] == ["c", "d"]
        assert await store.clear() == 2
        assert await store.clear() == 0
        claim = await store.claim(rows[2], next_run=rows[2].next_run, heartbeat_timeout=LEASE)
        assert claim is None

    async def test_a_paused_schedule_does_not_fire_until_it_is_resumed(self, world: World) -> None:
        store = world.backend.schedules
        a, b, c = [await added(store, name=name) for name in "abc"]
        assert await store.pause(ids=[a.id, 999_999], entrypoints=["b", "x"]) == {a.id, b.id}
        assert await store.pause(ids=[a.id]) == {a.id}
        assert [row.status for row in (await store.snapshot()).schedules] == [
            "canceled",
            "canceled",
            "queued",
        ]
        assert not await may_claim(store, "a")
        await world.pass_time(LEASE + 1)
        assert not await may_claim(store, "a")
        assert await store.claim(a, next_run=later(a.next_run), heartbeat_timeout=LEASE) is None
        assert await store.resume(ids=[a.id, b.id, c.id]) == {a.id, b.id}
        assert await store.resume(ids=[a.id]) == set()
        assert await may_claim(store, "a")
        assert (await current(store, "b")).status == "queued"

    async def test_one_that_is_paused_while_it_runs_goes_on_and_ends_paused(
        self, world: World
    ) -> None:
        store = world.backend.schedules
        claimed = await started(store, due_in=-1)
        assert await store.pause(ids=[claimed.id]) == {claimed.id}
        assert await store.heartbeat([claimed]) == {claimed.id}
        assert (await current(store)).updated == claimed.updated
        done = await store.finish(claimed)
        assert done is not None
        assert (done.status, done.next_run) == ("canceled", claimed.next_run)
        assert done.last_run is not None
        assert await store.finish(claimed) is None
        assert await store.heartbeat([claimed]) == set()
        assert not await may_claim(store)
        await store.resume(ids=[claimed.id])
        assert (await current(store)).status == "queued"
        assert await may_claim(store)

    async def test_one_that_is_interrupted_while_it_is_paused_runs_when_it_is_resumed(
        self, world: World
    ) -> None:
        store = world.backend.schedules
        claimed = await started(store)
        await store.pause(entrypoints=["s"])
        ended = await store.finish(claimed, next_run=later(claimed.created, -1), ran=False)
        assert ended is not None
        assert (ended.status, ended.last_run) == ("canceled", None)
        assert not await may_claim(store)
        await store.resume(entrypoints=["s"])
        assert await may_claim(store)

    async def test_one_that_is_resumed_while_it_runs_is_not_run_twice(self, world: World) -> None:
        store = world.backend.schedules
        claimed = await started(store, due_in=-1)
        for _ in range(2):
            await store.pause(ids=[claimed.id])
            assert await store.resume(ids=[claimed.id]) == {claimed.id}
            assert (await current(store)).status == "picked"
            assert not await may_claim(store)
            assert await store.heartbeat([claimed]) == {claimed.id}
        done = await store.finish(claimed)
        assert done is not None
        assert done.status == "queued"

    async def test_one_whose_worker_died_paused_is_taken_over_when_resumed(
        self, world: World
    ) -> None:
        store = world.backend.schedules
        claimed = await started(store, due_in=1)
        await store.pause(ids=[claimed.id])
        await world.pass_time(LEASE + 1)
        assert not await may_claim(store)
        await store.resume(ids=[claimed.id])
        assert await may_claim(store)
        assert await store.finish(claimed) is None

    async def test_a_triggered_schedule_is_due_now(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store, due_in=3600)
        before = (await store.snapshot()).now
        assert await store.trigger(ids=[row.id, 999_999], entrypoints=["s", "x"]) == {row.id}
        triggered = await current(store)
        assert before < triggered.next_run < (await store.snapshot()).now
        assert triggered.next_run.microsecond != 0
        assert (triggered.status, triggered.updated) == ("queued", row.updated)
        assert await store.claim(row, next_run=row.next_run, heartbeat_timeout=LEASE) is None
        assert await may_claim(store)

    async def test_a_trigger_forgets_no_fire_time_that_is_due(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store, due_in=-3600)
        for _ in range(2):
            assert await store.trigger(entrypoints=["s"]) == {row.id}
            assert (await current(store)).next_run == row.next_run + timedelta(microseconds=1)

    async def test_a_paused_schedule_cannot_be_triggered(self, world: World) -> None:
        store = world.backend.schedules
        await added(store, due_in=3600)
        await store.pause(entrypoints=["s"])
        paused = await current(store)
        assert await store.trigger(entrypoints=["s"]) == set()
        assert await current(store) == paused

    async def test_a_trigger_during_a_run_outlives_it(self, world: World) -> None:
        store = world.backend.schedules
        for name, next_run in (("a", None), ("b", timedelta(minutes=5))):
            claimed = await started(store, name)
            assert await store.trigger(ids=[claimed.id]) == {claimed.id}
            triggered = await current(store, name)
            assert (triggered.status, triggered.updated) == ("picked", claimed.updated)
            assert not await may_claim(store, name)
            done = await store.finish(
                claimed, next_run=None if next_run is None else claimed.next_run + next_run
            )
            assert done is not None
            # Behind the fire times that came while it ran, if there were any.
            assert (done.next_run == triggered.next_run) == (next_run is None)
            assert triggered.next_run <= done.next_run <= done.updated + timedelta(microseconds=1)
            assert done.next_run.microsecond != 0
            assert await may_claim(store, name)

    async def test_a_trigger_outlives_a_fire_that_did_not_run(self, world: World) -> None:
        store = world.backend.schedules
        skipped = await started(store, "skipped")
        await store.trigger(ids=[skipped.id])
        due = (await current(store, "skipped")).next_run
        ended = await store.finish(skipped, ran=False)
        assert ended is not None
        assert (ended.next_run, ended.last_run) == (due, None)

        interrupted = await started(store, "interrupted")
        await store.trigger(ids=[interrupted.id])
        fire_time = later(interrupted.next_run, -120)
        ended = await store.finish(interrupted, next_run=fire_time, ran=False)
        assert ended is not None
        assert ended.next_run == fire_time + timedelta(microseconds=1)

    async def test_schedulers_are_woken_by_what_makes_something_due(self, world: World) -> None:
        store = world.backend.schedules
        rows = [await added(store, name=name, due_in=3600) for name in "abc"]
        ids = [row.id for row in rows]
        async with world.listening() as heard:
            assert await store.trigger(ids=ids) == set(ids)
            assert await wake_ups(heard) == 1
            await store.pause(ids=ids)
            assert await wake_ups(heard) == 0
            await store.resume(ids=ids)
            assert await wake_ups(heard) == 1
            for nothing in (store.resume, store.trigger, store.pause):
                assert await nothing() == set()
                assert await nothing(ids=[999_999], entrypoints=["x"]) == set()
            assert await wake_ups(heard) == 0

    async def test_schedulers_are_woken_by_a_fire_that_is_due_again(self, world: World) -> None:
        store = world.backend.schedules
        async with world.listening() as heard:
            await store.finish(await started(store, "ended"))
            paused = await started(store, "paused")
            await store.pause(ids=[paused.id])
            await store.finish(paused, next_run=later(paused.next_run, -120), ran=False)
            assert await wake_ups(heard) == 0
            interrupted = await started(store, "interrupted")
            await store.finish(interrupted, next_run=later(interrupted.next_run, -120), ran=False)
            assert await wake_ups(heard) == 1
