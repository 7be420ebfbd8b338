"""The schedules table on PostgreSQL; knows statements and records, not cron or connections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from pgq_trio.abc import NewSchedule, ScheduleStore, Snapshot
from pgq_trio.models import Schedule
from pgq_trio.postgres.sql_port import Row, SqlConnection
from pgq_trio.settings import Settings
from pgq_trio.store.statements import Statements

__all__ = ["PostgresSchedules"]


class PostgresSchedules(ScheduleStore):
    """`ScheduleStore` with one statement for each operation, see `sql/`."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._statements = Statements(settings)

    async def _fetch(self, statement: str, *params: object) -> list[Row]:
        return await self._sql.fetch(self._statements[f"schedule_{statement}"], params)

    async def snapshot(self) -> Snapshot:
        rows = await self._fetch("snapshot")
        now: datetime = rows.pop()[3]
        return Snapshot(now, [_schedule(row) for row in rows])

    async def add(self, schedules: Sequence[NewSchedule]) -> None:
        await self._fetch(
            "add",
            [schedule.entrypoint for schedule in schedules],
            [schedule.expression for schedule in schedules],
            [schedule.next_run for schedule in schedules],
        )

    async def claim(
        self, schedule: Schedule, *, next_run: datetime, heartbeat_timeout: float
    ) -> Schedule | None:
        rows = await self._fetch(
            "claim",
            schedule.id,
            schedule.updated,
            schedule.next_run,
            next_run,
            float(heartbeat_timeout),
        )
        return _schedule(rows[0]) if rows else None

    async def heartbeat(self, schedules: Sequence[Schedule]) -> set[int]:
        rows = await self._fetch(
            "heartbeat",
            [schedule.id for schedule in schedules],
            [schedule.updated for schedule in schedules],
        )
        return {row[0] for row in rows}

    async def finish(
        self, schedule: Schedule, *, next_run: datetime | None = None, ran: bool = True
    ) -> Schedule | None:
        rows = await self._fetch(
            "finish", schedule.id, schedule.updated, schedule.next_run, next_run, ran
        )
        return _schedule(rows[0]) if rows else None

    async def pause(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        return await self._change("pause", ids, entrypoints)

    async def resume(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        return await self._change("resume", ids, entrypoints)

    async def trigger(
        self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()
    ) -> set[int]:
        return await self._change("trigger", ids, entrypoints)

    async def _change(
        self, statement: str, ids: Collection[int], entrypoints: Collection[str]
    ) -> set[int]:
        rows = await self._fetch(statement, list(ids), list(entrypoints))
        return {row[0] for row in rows if row[0] is not None}  # the one without is the wake-up

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        return len(await self._fetch("delete", list(ids), list(entrypoints)))

    async def clear(self) -> int:
        return len(await self._fetch("clear"))


def _schedule(row: Row) -> Schedule:
    (
        schedule_id, expression, entrypoint, heartbeat, created, updated, next_run, last_run, status
    ) = row  # fmt: skip
    return Schedule(
        id=schedule_id,
        expression=expression,
        entrypoint=entrypoint,
        heartbeat=heartbeat,
        created=created,
        updated=updated,
        next_run=next_run,
        last_run=last_run,
        status=status,
    )
