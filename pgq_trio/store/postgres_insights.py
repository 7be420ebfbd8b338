"""What can be learned about a queue on PostgreSQL; knows statements and records."""

from __future__ import annotations

from collections.abc import Collection

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
from pgq_trio.postgres.sql_port import Param, Row
from pgq_trio.store.log_rows import make_log
from pgq_trio.store.postgres_history import PostgresHistory
from pgq_trio.store.records import make_job
from pgq_trio.types import JobId, JobStatus

__all__ = ["PostgresInsights"]


class PostgresInsights(PostgresHistory, InsightStore):
    """`InsightStore` with one statement for each report, see `sql/`."""

    async def log_statistics(self, *, limit: int | None, last: float | None) -> list[LogStatistics]:
        return [
            LogStatistics(
                count=count,
                created=created,
                entrypoint=entrypoint,
                priority=priority,
                status=status,
            )
            for count, created, entrypoint, priority, status in await self._fetch(
                "log_statistics", limit, last
            )
        ]

    async def clear_statistics(self, entrypoints: Collection[str] | None) -> int:
        [(count,)] = await self._fetch(
            "clear_statistics", None if entrypoints is None else list(entrypoints)
        )
        cleared: int = count
        return cleared

    async def queue_age(self) -> list[QueueAgeStats]:
        return [
            QueueAgeStats(
                entrypoint=entrypoint,
                queued_count=count,
                oldest_created=oldest,
                oldest_age_seconds=oldest_age,
                avg_age_seconds=average,
            )
            for entrypoint, count, oldest, oldest_age, average in await self._fetch("queue_age")
        ]

    async def throughput(self, *, last: float | None) -> list[ThroughputStats]:
        return [
            ThroughputStats(entrypoint=entrypoint, status=status, total_count=count)
            for entrypoint, status, count in await self._fetch("throughput", last)
        ]

    async def throughput_timeseries(self, *, last: float) -> list[ThroughputBucket]:
        return [
            ThroughputBucket(bucket=bucket, entrypoint=entrypoint, status=status, count=count)
            for bucket, entrypoint, status, count in await self._fetch(
                "throughput_timeseries", last
            )
        ]

    async def job_durations(self, *, last: float) -> list[JobDurationStats]:
        return [
            JobDurationStats(
                entrypoint=entrypoint,
                completed=count,
                p50_seconds=p50,
                p95_seconds=p95,
                p99_seconds=p99,
                max_seconds=longest,
            )
            for entrypoint, count, (p50, p95, p99), longest in await self._fetch(
                "job_durations", last
            )
        ]

    async def active_workers(self) -> list[ActiveWorker]:
        return [
            ActiveWorker(
                queue_manager_id=identity,
                active_jobs=count,
                oldest_heartbeat=oldest,
                newest_heartbeat=newest,
                entrypoints=entrypoints,
            )
            for identity, count, oldest, newest, entrypoints in await self._fetch("active_workers")
        ]

    async def stale_jobs(self, *, threshold: float, limit: int) -> list[StaleJob]:
        return [_stale_job(row) for row in await self._fetch("stale_jobs", threshold, limit)]

    async def browse(
        self,
        *,
        limit: int,
        offset: int,
        statuses: Collection[JobStatus] | None,
        entrypoints: Collection[str] | None,
    ) -> list[Job]:
        rows = await self._fetch(
            "browse",
            None if statuses is None else list(statuses),
            None if entrypoints is None else list(entrypoints),
            limit,
            offset,
        )
        return [make_job(row[:10], *row[10:]) for row in rows]

    async def job(self, job_id: JobId) -> Job | None:
        rows = await self._fetch("job", job_id)
        return make_job(rows[0][:10], *rows[0][10:]) if rows else None

    async def job_log(self, job_id: JobId, *, limit: int) -> list[Log]:
        return [make_log(row) for row in await self._fetch("job_log", job_id, limit)]

    async def exception_log(self, *, limit: int) -> list[Log]:
        return [make_log(row) for row in await self._fetch("exception_log", limit)]

    async def tables(self) -> list[TableInfo]:
        settings = self._settings
        names = [
            settings.queue_table,
            settings.queue_table_log,
            settings.statistics_table,
            settings.schedules_table,
        ]
        rows = await self._fetch("tables", [settings.qualified(name) for name in names])
        return [
            TableInfo(
                table_name=name, persistence=persistence, estimated_rows=count, total_size=size
            )
            for name, persistence, count, size in rows
        ]

    async def _fetch(self, name: str, *params: Param) -> list[Row]:
        return await self._sql.fetch(self._statements[name], params)


def _stale_job(row: Row) -> StaleJob:
    (
        job_id, priority, queue_manager_id, created, updated, heartbeat, execute_after, status,
        entrypoint, silence,
    ) = row  # fmt: skip
    return StaleJob(
        id=job_id,
        priority=priority,
        queue_manager_id=queue_manager_id,
        created=created,
        updated=updated,
        heartbeat=heartbeat,
        execute_after=execute_after,
        status=status,
        entrypoint=entrypoint,
        seconds_since_heartbeat=silence,
    )
