"""The part of `Queries` that tells how the queue is doing: statistics, ages, workers, tables."""

from __future__ import annotations

from collections.abc import Collection

from pgq_trio.client.base import Names, QueriesBase, names_of
from pgq_trio.model.durations import Duration, seconds
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
from pgq_trio.types import JobId, JobStatus

__all__ = ["InsightQueries"]


class InsightQueries(QueriesBase):
    """Reading the queue, its log and its statistics. Durations are `timedelta` or seconds."""

    async def aggregate_logs(self) -> int:
        """Fold the log into the statistics now. Returns how many log rows were counted.

        Only one caller at a time counts; with another at it nothing is done.
        """
        return await self.backend.insights.fold()

    async def log_statistics(
        self, limit: int | None = None, last: Duration | None = None
    ) -> list[LogStatistics]:
        """Fold the log into the statistics, then return them, newest first.

        Args:
            limit: at most so many rows; None: all.
            last: only what happened within this time; None: all.
        """
        await self.backend.insights.fold()
        return await self.backend.insights.log_statistics(limit=limit, last=_span(last))

    async def clear_statistics_log(self, entrypoint: Names = None) -> int:
        """Delete the statistics of these entrypoints; None: of all. An empty list: nothing."""
        return await self.backend.insights.clear_statistics(names_of(entrypoint))

    async def queue_age(self) -> list[QueueAgeStats]:
        """Return how many jobs of each entrypoint are queued and how old they are."""
        return await self.backend.insights.queue_age()

    async def throughput_summary(self, last: Duration | None = None) -> list[ThroughputStats]:
        """Count by entrypoint and status what happened within this time; None: ever.

        Reads the statistics; `aggregate_logs` brings them up to date.
        """
        return await self.backend.insights.throughput(last=_span(last))

    async def throughput_timeseries(self, last: Duration) -> list[ThroughputBucket]:
        """Count by minute, entrypoint and status what happened within this time."""
        return await self.backend.insights.throughput_timeseries(last=seconds(last, "last"))

    async def job_duration_percentiles(self, last: Duration) -> list[JobDurationStats]:
        """Return how long the jobs ran that ended within this time; needs the full history."""
        return await self.backend.insights.job_durations(last=seconds(last, "last"))

    async def active_workers(self) -> list[ActiveWorker]:
        """Return the workers that hold jobs now; one that is idle does not show."""
        return await self.backend.insights.active_workers()

    async def stale_jobs(self, threshold: Duration, limit: int = 100) -> list[StaleJob]:
        """Return picked jobs without a heartbeat for longer than this, the oldest first."""
        return await self.backend.insights.stale_jobs(
            threshold=seconds(threshold, "threshold"), limit=limit
        )

    async def browse_queue(
        self,
        limit: int = 50,
        offset: int = 0,
        statuses: Collection[JobStatus] | None = None,
        entrypoints: Collection[str] | None = None,
    ) -> list[Job]:
        """Return a page of the queue table in the order of claims."""
        return await self.backend.insights.browse(
            limit=limit, offset=offset, statuses=statuses, entrypoints=entrypoints
        )

    async def queue_job_by_id(self, job_id: JobId) -> Job | None:
        """Return a job's row of the queue table; None when it has none (any more)."""
        return await self.backend.insights.job(job_id)

    async def job_log_history(self, job_id: JobId, limit: int = 100) -> list[Log]:
        """Return the log rows of one job, oldest first."""
        return await self.backend.insights.job_log(job_id, limit=limit)

    async def exception_logs(self, limit: int = 100) -> list[Log]:
        """Return the log rows of failures, newest first."""
        return await self.backend.insights.exception_log(limit=limit)

    async def schema_info(self) -> list[TableInfo]:
        """Return size and persistence of the queue's tables."""
        return await self.backend.insights.tables()


def _span(value: Duration | None) -> float | None:
    return None if value is None else seconds(value, "last")
