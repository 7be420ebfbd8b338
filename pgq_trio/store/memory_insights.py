"""What can be learned about a queue in memory; every operation is a checkpoint, then one look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import get_args

from anyio.lowlevel import checkpoint

from pgq_trio.abc import InsightStore
from pgq_trio.models import (
    ActiveWorker,
    Job,
    JobDurationStats,
    Log,
    LogStatistics,
    QueueAgeStats,
    StaleJob,
    TableInfo,
    ThroughputBucket,
    ThroughputStats,
)
from pgq_trio.store.memory_history import MemoryHistory
from pgq_trio.store.memory_rows import Row
from pgq_trio.types import JobId, JobStatus, QueueManagerId

__all__ = ["MemoryInsights"]

#: How PostgreSQL's enum sorts.
_ORDER: dict[str, int] = {status: i for i, status in enumerate(get_args(JobStatus))}

_ENDINGS = {"successful", "exception", "canceled", "failed"}


class MemoryInsights(MemoryHistory, InsightStore):
    """`InsightStore` on a `MemoryState`."""

    async def log_statistics(self, *, limit: int | None, last: float | None) -> list[LogStatistics]:
        await checkpoint()
        return list(reversed(list(self._statistics(last))))[:limit]

    async def clear_statistics(self, entrypoints: Collection[str] | None) -> int:
        await checkpoint()
        statistics = self._state.statistics
        gone = [key for key in statistics if entrypoints is None or key[3] in entrypoints]
        for key in gone:
            del statistics[key]
        return len(gone)

    async def queue_age(self) -> list[QueueAgeStats]:
        await checkpoint()
        now = self._state.now()
        created: defaultdict[str, list[datetime]] = defaultdict(list)
        for row in self._rows("queued"):
            created[row.entrypoint].append(row.created)
        return [
            QueueAgeStats(
                entrypoint=entrypoint,
                queued_count=len(times),
                oldest_created=min(times),
                oldest_age_seconds=(now - min(times)).total_seconds(),
                avg_age_seconds=sum((now - time).total_seconds() for time in times) / len(times),
            )
            for entrypoint, times in sorted(created.items())
        ]

    async def throughput(self, *, last: float | None) -> list[ThroughputStats]:
        await checkpoint()
        counts: Counter[tuple[str, JobStatus]] = Counter()
        for row in self._statistics(last):
            counts[row.entrypoint, row.status] += row.count
        return [
            ThroughputStats(entrypoint=key[0], status=key[1], total_count=counts[key])
            for key in sorted(counts, key=lambda key: (key[0], _ORDER[key[1]]))
        ]

    async def throughput_timeseries(self, *, last: float) -> list[ThroughputBucket]:
        await checkpoint()
        counts: Counter[tuple[datetime, str, JobStatus]] = Counter()
        for row in self._statistics(last):
            counts[row.created.replace(second=0), row.entrypoint, row.status] += row.count
        return [
            ThroughputBucket(bucket=key[0], entrypoint=key[1], status=key[2], count=counts[key])
            for key in sorted(counts, key=lambda key: (key[0], key[1], _ORDER[key[2]]))
        ]

    async def job_durations(self, *, last: float) -> list[JobDurationStats]:
        await checkpoint()
        since = self._state.now() - timedelta(seconds=last)
        before: dict[JobId, Log] = {}
        seconds: defaultdict[str, list[float]] = defaultdict(list)
        for entry in self._state.log:
            if entry.created <= since:
                continue
            previous = before.get(entry.job_id)
            if previous is not None and previous.status == "picked" and entry.status in _ENDINGS:
                seconds[entry.entrypoint].append((entry.created - previous.created).total_seconds())
            before[entry.job_id] = entry
        stats = [_durations(name, sorted(times)) for name, times in sorted(seconds.items())]
        return sorted(stats, key=lambda row: row.p95_seconds, reverse=True)

    async def active_workers(self) -> list[ActiveWorker]:
        await checkpoint()
        held: defaultdict[QueueManagerId, list[Row]] = defaultdict(list)
        for row in self._rows("picked"):
            if row.queue_manager_id is not None:
                held[row.queue_manager_id].append(row)
        return [
            ActiveWorker(
                queue_manager_id=identity,
                active_jobs=len(rows),
                oldest_heartbeat=min(row.heartbeat for row in rows),
                newest_heartbeat=max(row.heartbeat for row in rows),
                entrypoints=sorted({row.entrypoint for row in rows}),
            )
            for identity, rows in sorted(held.items())
        ]

    async def stale_jobs(self, *, threshold: float, limit: int) -> list[StaleJob]:
        await checkpoint()
        now = self._state.now()
        before = now - timedelta(seconds=threshold)
        stale = [row for row in self._rows("picked") if row.heartbeat < before]
        stale.sort(key=lambda row: (row.heartbeat, row.id))
        return [
            StaleJob(
                id=row.id,
                priority=row.priority,
                queue_manager_id=row.queue_manager_id,
                created=row.created,
                updated=row.updated,
                heartbeat=row.heartbeat,
                execute_after=row.execute_after,
                status=row.status,
                entrypoint=row.entrypoint,
                seconds_since_heartbeat=(now - row.heartbeat).total_seconds(),
            )
            for row in stale[:limit]
        ]

    async def browse(
        self,
        *,
        limit: int,
        offset: int,
        statuses: Collection[JobStatus] | None,
        entrypoints: Collection[str] | None,
    ) -> list[Job]:
        await checkpoint()
        rows = [
            row
            for row in self._state.jobs.rows.values()
            if (statuses is None or row.status in statuses)
            and (entrypoints is None or row.entrypoint in entrypoints)
        ]
        rows.sort(key=lambda row: (-row.priority, row.id))
        return [row.job() for row in rows[offset : offset + limit]]

    async def job(self, job_id: JobId) -> Job | None:
        await checkpoint()
        row = self._state.jobs.rows.get(job_id)
        return None if row is None else row.job()

    async def job_log(self, job_id: JobId, *, limit: int) -> list[Log]:
        await checkpoint()
        return [entry for entry in self._state.log if entry.job_id == job_id][:limit]

    async def exception_log(self, *, limit: int) -> list[Log]:
        await checkpoint()
        failures = [x for x in reversed(self._state.log) if x.status in {"exception", "failed"}]
        return failures[:limit]

    async def tables(self) -> list[TableInfo]:
        await checkpoint()
        state, settings = self._state, self._state.settings
        rows = {
            settings.queue_table: len(state.jobs.rows),
            settings.queue_table_log: len(state.log),
            settings.statistics_table: len(state.statistics),
            settings.schedules_table: len(state.schedules),
        }
        return [
            TableInfo(
                table_name=name, persistence="UNLOGGED", estimated_rows=count, total_size="0 bytes"
            )
            for name, count in sorted(rows.items())
        ]

    def _rows(self, status: JobStatus) -> Iterator[Row]:
        return (row for row in self._state.jobs.rows.values() if row.status == status)

    def _statistics(self, last: float | None) -> Iterator[LogStatistics]:
        since = None if last is None else self._state.now() - timedelta(seconds=last)
        for (second, priority, status, entrypoint), count in self._state.statistics.items():
            if since is None or second > since:
                yield LogStatistics(
                    count=count,
                    created=second,
                    entrypoint=entrypoint,
                    priority=priority,
                    status=status,
                )


def _durations(entrypoint: str, seconds: Sequence[float]) -> JobDurationStats:
    return JobDurationStats(
        entrypoint=entrypoint,
        completed=len(seconds),
        p50_seconds=_percentile(seconds, 0.5),
        p95_seconds=_percentile(seconds, 0.95),
        p99_seconds=_percentile(seconds, 0.99),
        max_seconds=seconds[-1],
    )


def _percentile(ascending: Sequence[float], fraction: float) -> float:
    """Interpolate as PostgreSQL's percentile_cont does."""
    place = fraction * (len(ascending) - 1)
    low = int(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (place - low)
