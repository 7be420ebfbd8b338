"""The schedules table in memory; every operation is a checkpoint, then one change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from anyio.lowlevel import checkpoint

from pgq_trio.abc import NewSchedule, ScheduleStore, Snapshot
from pgq_trio.models import Schedule
from pgq_trio.store.memory_state import MemoryState

__all__ = ["MemorySchedules"]


class MemorySchedules(ScheduleStore):
    """`ScheduleStore` on a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state
        self._rows = state.schedules
        self._last_id = 0

    async def snapshot(self) -> Snapshot:
        await checkpoint()
        return Snapshot(self._state.now(), sorted(self._rows.values(), key=lambda row: row.id))

    async def add(self, schedules: Sequence[NewSchedule]) -> None:
        await checkpoint()
        now = self._state.now()
        known = {(row.entrypoint, row.expression) for row in self._rows.values()}
        for new in schedules:
            if (new.entrypoint, new.expression) in known:
                continue
            known.add((new.entrypoint, new.expression))
            self._last_id += 1
            self._rows[self._last_id] = Schedule(
                id=self._last_id,
                expression=new.expression,
                entrypoint=new.entrypoint,
                heartbeat=now,
                created=now,
                updated=now,
                next_run=_whole(new.next_run),
            )

    async def claim(
        self, schedule: Schedule, *, next_run: datetime, heartbeat_timeout: float
    ) -> Schedule | None:
        await checkpoint()
        now = self._state.now()
        row = self._rows.get(schedule.id)
        if row is None or (row.updated, row.next_run) != (schedule.updated, schedule.next_run):
            return None
        lease = timedelta(seconds=heartbeat_timeout)
        is_due = row.status == "queued" and row.next_run <= now
        is_stale = row.status == "picked" and row.heartbeat < now - lease
        if not (is_due or is_stale):
            return None
        claimed = replace(
            row, status="picked", updated=now, heartbeat=now, next_run=_whole(next_run)
        )
        self._rows[row.id] = claimed
        return claimed

    async def heartbeat(self, schedules: Sequence[Schedule]) -> set[int]:
        await checkpoint()
        now = self._state.now()
        owned = [row for schedule in schedules if (row := self._owned(schedule)) is not None]
        for row in owned:
            self._rows[row.id] = replace(row, heartbeat=now)
        return {row.id for row in owned}

    async def finish(self, schedule: Schedule, *, next_run: datetime | None = None) -> bool:
        await checkpoint()
        now = self._state.now()
        row = self._owned(schedule)
        if row is None:
            return False
        self._rows[row.id] = (
            replace(row, status="queued", updated=now, last_run=now)
            if next_run is None
            else replace(row, status="queued", updated=now, next_run=_whole(next_run))
        )
        return True

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        await checkpoint()
        gone = [r.id for r in self._rows.values() if r.id in ids or r.entrypoint in entrypoints]
        for schedule_id in gone:
            del self._rows[schedule_id]
        return len(gone)

    async def clear(self) -> int:
        await checkpoint()
        count = len(self._rows)
        self._rows.clear()
        return count

    def _owned(self, schedule: Schedule) -> Schedule | None:
        row = self._rows.get(schedule.id)
        if row is None or row.status != "picked" or row.updated != schedule.updated:
            return None
        return row


def _whole(time: datetime) -> datetime:
    """Fire times are whole seconds, as PgQueuer stores them."""
    return time.replace(microsecond=0)
