"""Records of what can be learned about a queue: ages, counts, workers, tables; no I/O, no clock.

Names and fields are PgQueuer's, so that dashboards written for it find their columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgq_trio.types import JobId, JobStatus, QueueManagerId

__all__ = [
    "ActiveWorker",
    "JobDurationStats",
    "LogStatistics",
    "QueueAgeStats",
    "StaleJob",
    "TableInfo",
    "ThroughputBucket",
    "ThroughputStats",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatistics:
    """How many log rows of one entrypoint, priority and status fell into one second."""

    count: int
    created: datetime
    entrypoint: str
    priority: int
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAgeStats:
    """How many jobs of an entrypoint are queued, and for how long (in seconds)."""

    entrypoint: str
    queued_count: int
    oldest_created: datetime
    oldest_age_seconds: float
    avg_age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputStats:
    """How many times jobs of an entrypoint came to a status."""

    entrypoint: str
    status: JobStatus
    total_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputBucket:
    """How many times jobs of an entrypoint came to a status in the minute from `bucket` on."""

    bucket: datetime
    entrypoint: str
    status: JobStatus
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDurationStats:
    """How long (in seconds) the jobs of an entrypoint ran, from their claims to their outcomes."""

    entrypoint: str
    completed: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveWorker:
    """A worker that holds picked jobs now."""

    queue_manager_id: QueueManagerId
    active_jobs: int
    oldest_heartbeat: datetime
    newest_heartbeat: datetime
    entrypoints: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleJob:
    """A picked job whose last heartbeat is longer ago than it should be."""

    id: JobId
    priority: int
    queue_manager_id: QueueManagerId | None
    created: datetime
    updated: datetime
    heartbeat: datetime
    execute_after: datetime
    status: JobStatus
    entrypoint: str
    seconds_since_heartbeat: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInfo:
    """Size and persistence of one table; `persistence` is "LOGGED" or "UNLOGGED"."""

    table_name: str
    persistence: str
    estimated_rows: int
    total_size: str
