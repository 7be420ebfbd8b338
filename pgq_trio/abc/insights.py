"""The port of what can be learned about a queue, and of keeping its history small."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

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

__all__ = ["InsightStore"]


class InsightStore(Protocol):
    """Reading the queue, its log and its statistics; all ages and spans are seconds."""

    async def fold(self) -> int:
        """Count log rows that are not counted yet into the statistics, and mark them as counted.

        One caller at a time in the whole fleet; with another at it, nothing is done. Returns how
        many rows were counted.
        """
        ...

    async def log_statistics(self, *, limit: int | None, last: float | None) -> list[LogStatistics]:
        """Return the folded statistics, newest first: the newest `limit`, of the `last` seconds."""
        ...

    async def clear_statistics(self, entrypoints: Collection[str] | None) -> int:
        """Delete statistics of these entrypoints, of all with None. Returns how many rows went."""
        ...

    async def queue_age(self) -> list[QueueAgeStats]:
        """Return how old the queued jobs of each entrypoint are, ordered by entrypoint."""
        ...

    async def throughput(self, *, last: float | None) -> list[ThroughputStats]:
        """Sum the folded statistics of the last so many seconds; None: of all time."""
        ...

    async def throughput_timeseries(self, *, last: float) -> list[ThroughputBucket]:
        """Sum the folded statistics by minute, oldest first."""
        ...

    async def job_durations(self, *, last: float) -> list[JobDurationStats]:
        """Return percentiles of how long jobs ran; needs the full history."""
        ...

    async def active_workers(self) -> list[ActiveWorker]:
        """Return the workers that hold picked jobs, ordered by id."""
        ...

    async def stale_jobs(self, *, threshold: float, limit: int) -> list[StaleJob]:
        """Return picked jobs whose heartbeat is older than the threshold, the oldest first."""
        ...

    async def browse(
        self,
        *,
        limit: int,
        offset: int,
        statuses: Collection[JobStatus] | None,
        entrypoints: Collection[str] | None,
    ) -> list[Job]:
        """Return a page of the queue table in the order of claims; None: no condition."""
        ...

    async def job(self, job_id: JobId) -> Job | None:
        """Return one row of the queue table."""
        ...

    async def job_log(self, job_id: JobId, *, limit: int) -> list[Log]:
        """Return the first `limit` log rows of one job, oldest first."""
        ...

    async def exception_log(self, *, limit: int) -> list[Log]:
        """Return the log rows of failures (exception, failed), newest first."""
        ...

    async def tables(self) -> list[TableInfo]:
        """Return size and persistence of each table of the queue."""
        ...
