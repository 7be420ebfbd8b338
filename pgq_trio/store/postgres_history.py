"""Keeping the history small on PostgreSQL: folding and deleting in turns; knows no reports."""

from __future__ import annotations

from pgq_trio.abc.insights import EXPIRE_BATCH, FOLD_BATCH, Step
from pgq_trio.errors import StoreError
from pgq_trio.model.retention import AgeLimit, Retention
from pgq_trio.postgres.sql_port import Row, SqlConnection
from pgq_trio.settings import Settings
from pgq_trio.store.log_marks import ExpiryMark, FoldMark, Seen
from pgq_trio.store.statements import Statements

__all__ = ["PostgresHistory"]

#: Pages of the log that an estimate reads at most: 16 MiB.
_SAMPLE_PAGES = 2000

#: The SQLSTATE of `history_lock`, as every driver's error has it, when somebody writes statistics
#: or VACUUM is at them.
_LOCK_NOT_AVAILABLE = "55P03"


class PostgresHistory:
    """The part of `InsightStore` that changes the history."""

    def __init__(self, sql: SqlConnection, settings: Settings) -> None:
        self._sql = sql
        self._settings = settings
        self._statements = Statements(settings)
        # Not quoted: PgQueuer hashes the name as it writes it.
        names = (settings.schema, settings.statistics_table)
        self._turn_key = ".".join(name for name in names if name)
        self._fold_mark = FoldMark()
        self._expiry_marks: dict[AgeLimit, ExpiryMark] = {}

    async def chores(self, retention: Retention | None) -> bool:
        limits = [] if retention is None else retention.limits()
        marks = [self._expiry_mark(limit) for limit in limits]
        begin = self._fold_mark.settled
        [(unfolded, expired, top, xmin, xmax)] = await self._sql.fetch(
            self._statements["chores"],
            [
                begin,
                [limit.seconds for limit in limits],
                [mark.settled for mark in marks],
                None if retention is None else retention.statistics_seconds,
            ],
        )
        if unfolded or self._is_void(top):
            return True
        # It saw all: as good as a fold that found nothing.
        seen = Seen(top, xmin, xmax)
        is_valid = self._note_fold(seen, begin=begin, last=None, is_complete=True)
        return bool(expired) or not is_valid

    async def fold(self, *, limit: int = FOLD_BATCH) -> Step:
        begin, is_whole = self._fold_mark.place, self._fold_mark.is_at_start
        row = await self._in_turn("fold", [begin, limit])
        if row is None:
            return Step(0, is_last=True, is_busy=True)
        counted, chosen, last, top, xmin, xmax = row
        is_complete = chosen < limit
        seen = Seen(top, xmin, xmax)
        is_valid = self._note_fold(seen, begin=begin, last=last, is_complete=is_complete)
        return Step(counted, is_last=is_complete and is_whole and is_valid)

    async def expire(
        self, retention: Retention, *, limit: int = EXPIRE_BATCH, from_start: bool = False
    ) -> Step:
        if from_start:
            self._expiry_marks.clear()
        rows = 0
        for age in retention.limits():
            mark = self._expiry_mark(age)
            row = await self._in_turn(
                "expire",
                [age.seconds, list(age.statuses), mark.place, limit, age.takes_earlier],
            )
            if row is None:
                return Step(rows, is_last=False, is_busy=True)
            removed, walked, old, last, first_young, top = row
            rows += removed
            is_end = walked < limit or not old
            mark.note(last=last, first_young=first_young, is_end=is_end)
            is_void = self._is_void(top)
            if not is_end or is_void:
                return Step(rows, is_last=False)
        return await self._expire_statistics(retention, rows, limit)

    async def _expire_statistics(self, retention: Retention, rows: int, limit: int) -> Step:
        age = retention.statistics_seconds
        if age is None:
            return Step(rows, is_last=True)
        row = await self._in_turn("expire_statistics", [age, limit])
        if row is None:
            return Step(rows, is_last=False, is_busy=True)
        return Step(rows, is_last=row[0] < limit)

    async def expired_estimate(self, retention: Retention) -> int:
        limits = [(status, limit) for limit in retention.limits() for status in limit.statuses]
        [(count,)] = await self._sql.fetch(
            self._statements["expired_estimate"],
            [
                [status for status, _ in limits],
                [limit.seconds for _, limit in limits],
                float(_SAMPLE_PAGES),
                self._settings.qualified(self._settings.queue_table_log),
            ],
        )
        estimate: int = count
        return estimate

    async def unfolded(self) -> int:
        [(count,)] = await self._sql.fetch(self._statements["unfolded"])
        unfolded: int = count
        return unfolded

    async def _in_turn(self, name: str, params: list[object]) -> Row | None:
        """Run a statement alone at the history; None: somebody else is at it."""
        try:
            async with self._sql.transaction() as session:
                turn = await session.fetch(self._statements["history_turn"], [self._turn_key])
                if not turn[0][0]:
                    return None
                await session.fetch(self._statements["history_lock"])
                [row] = await session.fetch(self._statements[name], params)
        except StoreError as exc:
            if getattr(exc.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            return None
        return row

    def _note_fold(self, seen: Seen, *, begin: int, last: int | None, is_complete: bool) -> bool:
        is_valid = self._fold_mark.note(seen, begin=begin, last=last, is_complete=is_complete)
        if not is_valid:
            self._fold_mark = FoldMark()
        return is_valid

    def _expiry_mark(self, limit: AgeLimit) -> ExpiryMark:
        return self._expiry_marks.setdefault(limit, ExpiryMark())

    def _is_void(self, top: int) -> bool:
        """Forget the marks of deletions if the log was emptied and its ids began anew."""
        void = [limit for limit, mark in self._expiry_marks.items() if mark.is_void(top)]
        for limit in void:
            del self._expiry_marks[limit]
        return bool(void)
