"""The schedules table in memory; every operation is a checkpoint, then one change."""

from __future__ import annotations

import json
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

    async def finish(
        self, schedule: Schedule, *, next_run: datetime | None = None, ran: bool = True
    ) -> Schedule | None:
        await checkpoint()
        now = self._state.now()
        row = self._owned(schedule)
        if row is None:
            return None
        due = row.next_run
        if next_run is None:
            pass
        elif due == schedule.next_run:
            due = next_run
        elif not ran:
            due = min(due, _marked(next_run))
        elif due <= now:
            due = _marked(now)
        ended = self._rows[row.id] = replace(
            row,
            status="canceled" if row.status == "canceled" else "queued",
            updated=now,
            last_run=now if ran else row.last_run,
            next_run=due,
        )
        if ended.status == "queued" and due <= now:
            self._wake_schedulers(now)
        return ended

    async def pause(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        await checkpoint()
        found = self._find(ids, entrypoints)
        for row in found:
            self._rows[row.id] = replace(row, status="canceled")
        return {row.id for row in found}

    async def resume(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        await checkpoint()
        found = [row for row in self._find(ids, entrypoints) if row.status == "canceled"]
        for row in found:
            runs = row.heartbeat >= row.updated > row.created
            self._rows[row.id] = replace(row, status="picked" if runs else "queued")
        if found:
            self._wake_schedulers(self._state.now())
        return {row.id for row in found}

    async def trigger(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        await checkpoint()
        now = self._state.now()
        found = [row for row in self._find(ids, entrypoints) if row.status in {"queued", "picked"}]
        for row in found:
            self._rows[row.id] = replace(row, next_run=_marked(min(row.next_run, now)))
        if found:
            self._wake_schedulers(now)
        return {row.id for row in found}

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        await checkpoint()
        gone = self._find(ids, entrypoints)
        for row in gone:
            del self._rows[row.id]
        return len(gone)

    async def clear(self) -> int:
        await checkpoint()
        count = len(self._rows)
        self._rows.clear()
        return count

    def _find(self, ids: Collection[int], entrypoints: Collection[str]) -> list[Schedule]:
        return [r for r in self._rows.values() if r.id in ids or r.entrypoint in entrypoints]

    def _owned(self, schedule: Schedule) -> Schedule | None:
        row = self._rows.get(schedule.id)
        if row is None or row.status not in {"picked", "canceled"}:
            return None
        return row if row.updated == schedule.updated else None

    def _wake_schedulers(self, now: datetime) -> None:
        settings = self._state.settings
        self._state.notify(
            json.dumps(
                {
                    "channel": settings.channel,
                    "operation": "update",
                    "sent_at": now.isoformat(),
                    "table": settings.schedules_table,
                    "type": "table_changed_event",
                }
            )
        )


def _whole(time: datetime) -> datetime:
    """Fire times are whole seconds, as PgQueuer stores them."""
    return time.replace(microsecond=0)


def _marked(time: datetime) -> datetime:
    """Return a time that is no whole second: it was triggered."""
    return time.replace(microsecond=time.microsecond or 1)
