"""The part of `Queries` that tells how the queue is doing, and keeps its history small."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar, get_args

import anyio

from pgq_trio.abc.insights import Step
from pgq_trio.client.base import Names, QueriesBase, names_of
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.model.enqueue import checked_text
from pgq_trio.model.retention import Retention, as_retention
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

T = TypeVar("T")

_BIGINT = 2**63 - 1

#: A thousand years in seconds: what is longer is ever, and PostgreSQL has no dates before it.
_EVER = 365_000 * 86_400.0

#: Of a count of rows that progress is reported to.
OnProgress = Callable[[int], object]


class InsightQueries(QueriesBase):
    """Reading the queue, its log and its statistics. Durations are `timedelta` or seconds.

    A wrong argument raises `TypeError` or `ValueError` before anything is sent.
    """

    async def aggregate_logs(self) -> int:
        """Fold the log into the statistics now. Returns how many log rows were counted.

        In batches, each its own transaction: cancelled, what is counted stays counted. Only one
        process at a time counts, PgQueuer's included; with another at it nothing is done. On a
        connection in a transaction of the caller nobody else can count until its end.
        """
        counted = 0
        while True:
            step = await self.backend.insights.fold()
            counted += step.rows
            if step.is_last:
                return counted

    async def unaggregated_log_count(self) -> int:
        """Return how many log rows are not folded into the statistics yet."""
        return await self.backend.insights.unfolded()

    async def delete_expired_logs(
        self,
        retention: Retention | Duration | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Delete log rows that are older than they are to be kept, and old statistics.

        Rows that are not folded yet are counted first, so the statistics stay complete. It goes
        in small batches, each its own transaction: cancelled, what is deleted stays deleted. While
        another process is at the history it waits for its turn.

        Args:
            retention: how long log rows are kept, a duration for all or a `Retention` by state;
                None: what the settings say.
            on_progress: called after each batch with the number of log rows deleted so far;
                `estimate_expired_logs` says about how many there are.

        Returns:
            how many log rows were deleted.

        Raises:
            ValueError: neither the argument nor the settings say how long.
        """
        wanted = self._retention(retention)
        deleted = 0
        backoff = Backoff(initial=0.05, maximum=1.0)
        step: Step | None = None
        while True:
            step = await self.backend.insights.expire(wanted, from_start=step is None)
            deleted += step.rows
            if step.rows and on_progress is not None:
                on_progress(deleted)
            if step.is_last:
                return deleted
            if step.is_busy:
                await anyio.sleep(backoff.next())
            else:
                backoff.reset()

    async def estimate_expired_logs(self, retention: Retention | Duration | None = None) -> int:
        """Return about how many log rows `delete_expired_logs` would delete.

        Counted in a sample of the log, at most 16 MiB of it; exact for a log that is smaller.

        Raises:
            ValueError: neither the argument nor the settings say how long rows are kept.
        """
        return await self.backend.insights.expired_estimate(self._retention(retention))

    async def log_statistics(
        self, limit: int | None = None, last: Duration | None = None
    ) -> list[LogStatistics]:
        """Fold the log into the statistics, then return them, newest first.

        With `history="outcomes"` there are no counts of queued and picked jobs.

        Args:
            limit: at most so many rows; None: all.
            last: only what happened within this time; None: all.
        """
        count = None if limit is None else _count(limit, "limit")
        span = _span(last)
        await self.aggregate_logs()
        return await self.backend.insights.log_statistics(limit=count, last=span)

    async def clear_statistics_log(self, entrypoint: Names = None) -> int:
        """Delete the statistics of these entrypoints; None: of all. An empty list: nothing."""
        return await self.backend.insights.clear_statistics(_names(names_of(entrypoint)))

    async def queue_age(self) -> list[QueueAgeStats]:
        """Return how many jobs of each entrypoint are queued and how old they are.

        The age counts from the enqueueing, also of jobs that are deferred.
        """
        return await self.backend.insights.queue_age()

    async def throughput_summary(self, last: Duration | None = None) -> list[ThroughputStats]:
        """Fold the log, then count by entrypoint and status what happened within this time.

        With `history="outcomes"` there are no counts of queued and picked jobs.

        Args:
            last: how long ago at most; None: ever.
        """
        span = _span(last)
        await self.aggregate_logs()
        return await self.backend.insights.throughput(last=span)

    async def throughput_timeseries(self, last: Duration) -> list[ThroughputBucket]:
        """Fold the log, then count by minute, entrypoint and status, oldest first.

        With `history="outcomes"` there are no counts of queued and picked jobs.
        """
        span = _length(last, "last")
        await self.aggregate_logs()
        return await self.backend.insights.throughput_timeseries(last=span)

    async def job_duration_percentiles(self, last: Duration) -> list[JobDurationStats]:
        """Return how long the jobs ran that began and ended within this time, slowest first.

        It needs the full history: with `history="outcomes"` no claims are logged, and there is
        nothing to tell.
        """
        return await self.backend.insights.job_durations(last=_length(last, "last"))

    async def active_workers(self) -> list[ActiveWorker]:
        """Return the workers that hold jobs now; one that is idle does not show."""
        return await self.backend.insights.active_workers()

    async def stale_jobs(self, threshold: Duration, limit: int = 100) -> list[StaleJob]:
        """Return picked jobs without a heartbeat for longer than this, the oldest first."""
        return await self.backend.insights.stale_jobs(
            threshold=_length(threshold, "threshold"), limit=_count(limit, "limit")
        )

    async def browse_queue(
        self,
        limit: int = 50,
        offset: int = 0,
        statuses: Collection[JobStatus] | None = None,
        entrypoints: Collection[str] | None = None,
    ) -> list[Job]:
        """Return a page of the queue table in the order of claims.

        Args:
            limit: at most so many rows.
            offset: how many to leave out before them.
            statuses: only jobs in these states; None: in any. An empty list: no job.
            entrypoints: only jobs of these; None: of all. An empty list: no job.
        """
        return await self.backend.insights.browse(
            limit=_count(limit, "limit"),
            offset=_count(offset, "offset"),
            statuses=_statuses(statuses),
            entrypoints=_names(entrypoints),
        )

    async def queue_job_by_id(self, id: JobId) -> Job | None:  # noqa: A002 - PgQueuer's name
        """Return a job's row of the queue table; None when it has none (any more)."""
        return await self.backend.insights.job(_count(id, "id"))

    async def job_log_history(
        self,
        id: JobId,  # noqa: A002 - PgQueuer's name
        limit: int = 100,
    ) -> list[Log]:
        """Return the log rows of one job, oldest first.

        With `history="outcomes"` they are the outcomes and the retries.
        """
        return await self.backend.insights.job_log(_count(id, "id"), limit=_count(limit, "limit"))

    async def exception_logs(self, limit: int = 100) -> list[Log]:
        """Return the log rows of failures (exception, failed), newest first."""
        return await self.backend.insights.exception_log(limit=_count(limit, "limit"))

    async def schema_info(self) -> list[TableInfo]:
        """Return size and persistence of the queue's tables, by name."""
        return await self.backend.insights.tables()

    def _retention(self, given: Retention | Duration | None) -> Retention:
        retention = as_retention(self.settings.retention if given is None else given)
        if retention is None:
            raise ValueError(
                "how long are log rows to be kept? Give retention=..., a timedelta or a "
                "pgq_trio.settings.Retention, or open the application with Settings(retention=...)"
            )
        return retention


def _length(value: object, what: str) -> float:
    return min(seconds(value, what), _EVER)


def _span(value: Duration | None) -> float | None:
    return None if value is None else _length(value, "last")


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} is a whole number, got {value!r}")
    if not 0 <= value <= _BIGINT:
        raise ValueError(f"{what} is at least 0 and has 63 bits, got {value}")
    return value


def _names(value: Collection[str] | None) -> list[str] | None:
    if value is None:
        return None
    return [checked_text("an entrypoint", name) for name in _listed(value, "entrypoints")]


def _statuses(value: Collection[JobStatus] | None) -> list[JobStatus] | None:
    if value is None:
        return None
    known = get_args(JobStatus)
    statuses = _listed(value, "statuses")
    for status in statuses:
        if status not in known:
            raise ValueError(f"a status is one of {', '.join(known)}, got {status!r}")
    return statuses


def _listed(value: Collection[T], what: str) -> list[T]:
    if isinstance(value, str | bytes) or not isinstance(value, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{what} is a list or None, got {value!r}")
    return list(value)
