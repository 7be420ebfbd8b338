"""The contract of `ScheduleStore`, for every store."""

from __future__ import annotations

from datetime import datetime, timedelta

import anyio

from pgq_trio.abc import NewSchedule, ScheduleStore
from pgq_trio.models import Schedule
from tests.store.world import World

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


def later(time: datetime, seconds: float = 60) -> datetime:
    return time + timedelta(seconds=seconds)


class TestSchedule:
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
        assert await store.finish(claimed, next_run=odd)
        assert (await current(store)).next_run == odd.replace(microsecond=0)

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
        await store.finish(claimed, next_run=row.next_run)  # due again, at the very same time
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
        assert await store.finish(claimed) is False
        assert await store.finish(taken) is True

    async def test_finish(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        assert await store.finish(claimed) is True
        done = await current(store)
        assert done.status == "queued"
        assert done.last_run is not None
        assert done.last_run > claimed.updated
        assert done.next_run == claimed.next_run
        assert await store.finish(claimed) is False
        assert await store.finish(done) is False
        assert await store.heartbeat([claimed, done]) == set()
        assert await store.heartbeat([]) == set()

    async def test_an_interrupted_fire_is_due_again(self, world: World) -> None:
        store = world.backend.schedules
        row = await added(store)
        claimed = await store.claim(row, next_run=later(row.next_run), heartbeat_timeout=LEASE)
        assert claimed is not None
        assert await store.finish(claimed, next_run=row.next_run) is True
        again = await current(store)
        assert (again.status, again.last_run, again.next_run) == ("queued", None, row.next_run)

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
