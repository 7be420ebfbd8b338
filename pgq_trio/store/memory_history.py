"""Keeping the history small in memory: folding and deleting, each one synchronous change."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from anyio.lowlevel import checkpoint

from pgq_trio.abc.insights import EXPIRE_BATCH, FOLD_BATCH, Step
from pgq_trio.model.retention import Retention
from pgq_trio.models import Log
from pgq_trio.store.memory_state import MemoryState
from pgq_trio.types import FINAL_STATES, JobStatus

__all__ = ["MemoryHistory"]


class MemoryHistory:
    """The part of `InsightStore` that changes the history; the log is in the order of time."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def chores(self, retention: Retention | None) -> bool:
        await checkpoint()
        log = self._state.log
        if log and not log[-1].aggregated:
            return True
        if retention is None:
            return False
        now = self._state.now()
        return bool(self._expired(retention, now) or self._expired_statistics(retention, now))

    async def fold(self, *, limit: int = FOLD_BATCH) -> Step:
        await checkpoint()
        log = self._state.log
        # Rows are counted in order, so the ones that are not counted yet are the last ones.
        begin = bisect_left(log, True, key=lambda entry: not entry.aggregated)
        end = min(begin + limit, len(log))
        self._count(log[begin:end])
        log[begin:end] = [replace(entry, aggregated=True) for entry in log[begin:end]]
        return Step(end - begin, is_last=end - begin < limit)

    async def expire(
        self,
        retention: Retention,
        *,
        limit: int = EXPIRE_BATCH,
        from_start: bool = False,  # noqa: ARG002 - it always does
    ) -> Step:
        await checkpoint()
        now = self._state.now()
        expired = self._expired(retention, now)
        gone = set(expired[:limit])
        gone |= self._earlier_rows(retention, gone)
        log = self._state.log
        self._count(log[i] for i in sorted(gone) if not log[i].aggregated)
        self._state.keep_log([entry for i, entry in enumerate(log) if i not in gone])
        if len(expired) >= limit:
            return Step(len(gone), is_last=False)
        for key in self._expired_statistics(retention, now):
            del self._state.statistics[key]
        return Step(len(gone), is_last=True)

    async def expired_estimate(self, retention: Retention) -> int:
        await checkpoint()
        return len(self._expired(retention, self._state.now()))

    async def unfolded(self) -> int:
        await checkpoint()
        return sum(not entry.aggregated for entry in self._state.log)

    def _count(self, entries: Iterable[Log]) -> None:
        statistics = self._state.statistics
        for entry in entries:
            second = entry.created.replace(microsecond=0)
            key = (second, entry.priority, entry.status, entry.entrypoint)
            statistics[key] = statistics.get(key, 0) + 1

    def _expired(self, retention: Retention, now: datetime) -> list[int]:
        """Return where in the log the rows are that are kept for too long."""
        expired: list[int] = []
        log = self._state.log
        for limit in retention.limits():
            end = bisect_left(log, _ago(now, limit.seconds), key=lambda entry: entry.created)
            expired.extend(i for i in range(end) if log[i].status in limit.statuses)
        return sorted(expired)

    def _earlier_rows(self, retention: Retention, gone: set[int]) -> set[int]:
        """Return where the rows are that an outcome among the given ones takes with it."""
        taking: set[JobStatus] = set()
        for limit in retention.limits():
            if limit.takes_earlier:
                taking |= FINAL_STATES.intersection(limit.statuses)
        log = self._state.log
        ended = {log[i].job_id for i in gone if log[i].status in taking}
        return {
            i
            for i, entry in enumerate(log)
            if entry.job_id in ended and entry.status not in FINAL_STATES
        }

    def _expired_statistics(
        self, retention: Retention, now: datetime
    ) -> list[tuple[datetime, int, JobStatus, str]]:
        age = retention.statistics_seconds
        if age is None:
            return []
        return [key for key in self._state.statistics if key[0] < _ago(now, age)]


def _ago(now: datetime, seconds: float) -> datetime:
    return now - timedelta(seconds=seconds)
