"""The port of what can be learned about a queue, and of keeping its history small."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from pgq_trio.model.retention import Retention
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

__all__ = ["EXPIRE_BATCH", "FOLD_BATCH", "InsightStore", "Step"]

#: How many log rows one step folds, or looks at for deletion: a transaction of some 100 ms.
FOLD_BATCH = 10_000
EXPIRE_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """What one bounded piece of work on the history has done.

    Attributes:
        rows: how many log rows it counted or deleted.
        is_last: whether nothing is left to do now.
        is_busy: another process is at the history, so nothing was done.
    """

    rows: int
    is_last: bool
    is_busy: bool = False


class InsightStore(Protocol):
    """Reading the queue, its log and its statistics; all ages and spans are seconds.

    Work on the history goes in steps, each an atomic change of its own, so that nobody waits for
    it for long. In a whole fleet, PgQueuer's workers included, one process at a time does a step.
    """

    async def chores(self, retention: Retention | None) -> bool:
        """Whether there is anything to fold, or anything that is kept for too long. One look."""
        ...

    async def fold(self, *, limit: int = FOLD_BATCH) -> Step:
        """Count up to `limit` log rows into the statistics and mark them as counted.

        Each row is counted once, whoever else is folding or deleting meanwhile.
        """
        ...

    async def expire(
        self, retention: Retention, *, limit: int = EXPIRE_BATCH, from_start: bool = False
    ) -> Step:
        """Delete old log rows, looking at up to `limit` of them, and old statistics.

        A row that is not counted yet is counted in the same change, so the statistics stay
        complete. `rows` counts log rows only. It goes on where the last call ended; `from_start`
        begins anew, which finds also what was committed late or whose deletion was rolled back.
        """
        ...

    async def expired_estimate(self, retention: Retention) -> int:
        """Return about how many log rows are kept for too long; cheap for any size of the log."""
        ...

    async def unfolded(self) -> int:
        """Return how many log rows are not counted into the statistics yet."""
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
        """Return percentiles of how long jobs ran, the slowest first; needs the full history.

        A run is from the last claim to the outcome, both within the last so many seconds.
        """
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
