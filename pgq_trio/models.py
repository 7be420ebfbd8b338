"""Public records: what a job, a schedule, a log row and their contexts are; no I/O, no clock."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from pgq_trio.model.insights import (
    ActiveWorker,
    JobDurationStats,
    LogStatistics,
    QueueAgeStats,
    StaleJob,
    TableInfo,
    ThroughputBucket,
    ThroughputStats,
)
from pgq_trio.model.migration import Migration
from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.types import JobId, JobStatus, QueueManagerId

__all__ = [
    "ActiveWorker",
    "CancellationScope",
    "Context",
    "Health",
    "Job",
    "JobDurationStats",
    "Log",
    "LogStatistics",
    "Migration",
    "QueueAgeStats",
    "QueueStatistics",
    "ResourceMapping",
    "Schedule",
    "ScheduleContext",
    "StaleJob",
    "TableInfo",
    "ThroughputBucket",
    "ThroughputStats",
    "TracebackRecord",
]

#: The shared container. Any object with mapping semantics will do; it is never copied.
ResourceMapping: TypeAlias = MutableMapping[str, object]


class CancellationScope(Protocol):
    """What a job may see and do of its own cancel scope; `anyio.CancelScope` satisfies it."""

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the scope; safe from the event loop's own thread only."""
        ...

    @property
    def cancel_called(self) -> bool:
        """Whether the scope has been cancelled, by whomever."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the queue table as a claim returned it.

    All times are aware and come from the database's clock. `attempts` counts the retries and
    rescues before this run: 0 on the first.
    """

    id: JobId
    priority: int
    created: datetime
    updated: datetime
    heartbeat: datetime
    execute_after: datetime
    status: JobStatus
    entrypoint: str
    payload: bytes | None = None
    headers: dict[str, object] | None = None
    attempts: int = 0
    queue_manager_id: QueueManagerId | None = None
    dedupe_key: str | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a handler gets beside its job.

    Attributes:
        resources: the shared container, the very object given to `open`, never a copy.
        cancellation: the job's own cancel scope, already entered by the job's own task.
        deadline: when the job times out, on `anyio.current_time()`'s clock; None without a timeout.
    """

    resources: ResourceMapping
    cancellation: CancellationScope
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A row of the schedules table as a claim returned it; times are the database's.

    `next_run` is the next fire time after this one, `last_run` when the schedule last ended.
    """

    id: int
    expression: str
    entrypoint: str
    heartbeat: datetime
    created: datetime
    updated: datetime
    next_run: datetime
    last_run: datetime | None = None
    status: JobStatus = "queued"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleContext:
    """What a schedule's handler gets beside its schedule.

    Attributes:
        resources: the shared container, the same object that jobs get.
        fire_time: the fire time this run answers, from the database's clock.
        missed: fire times before this one that nobody answered and that this run stands for.
        cancellation: the run's own cancel scope, already entered.
    """

    resources: ResourceMapping
    fire_time: datetime
    missed: int
    cancellation: CancellationScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A row of the log table: one change of a job's state."""

    created: datetime
    job_id: JobId
    status: JobStatus
    priority: int
    entrypoint: str
    traceback: TracebackRecord | None = None
    aggregated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """How many jobs of one entrypoint, priority and status are in the queue table."""

    count: int
    entrypoint: str
    priority: int
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a worker can do its work now.

    `status` is "ok", "degraded" while a connection is being made again, or "stopped" when
    nothing runs. `problems` says in words what is wrong, one entry a part of the worker.
    """

    status: str
    problems: dict[str, str] = field(default_factory=dict[str, str])
    since: timedelta | None = None
