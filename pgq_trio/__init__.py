"""The front door: what users import, and nothing else."""

from pgq_trio.app import PgQueuer
from pgq_trio.client.completion import CompletionWatcher
from pgq_trio.client.queries import Queries
from pgq_trio.client.sync_queries import SyncQueries
from pgq_trio.db import (
    AsyncpgDriver,
    AsyncpgPoolDriver,
    InMemoryDriver,
    PsycopgDriver,
    SyncPsycopgDriver,
)
from pgq_trio.errors import PgqError, RetryRequested
from pgq_trio.executors import (
    AbstractEntrypointExecutor,
    AbstractScheduleExecutor,
    DatabaseRetryEntrypointExecutor,
    EntrypointExecutor,
    ProcessExecutor,
    ScheduleExecutor,
)
from pgq_trio.model.retry import Exponential, Fixed
from pgq_trio.models import Context, Job, Log, Schedule, ScheduleContext
from pgq_trio.qm import QueueManager
from pgq_trio.resources import Resources
from pgq_trio.settings import Settings
from pgq_trio.sm import SchedulerManager
from pgq_trio.types import JobId, QueueExecutionMode

__all__ = [
    "AbstractEntrypointExecutor",
    "AbstractScheduleExecutor",
    "AsyncpgDriver",
    "AsyncpgPoolDriver",
    "CompletionWatcher",
    "Context",
    "DatabaseRetryEntrypointExecutor",
    "EntrypointExecutor",
    "Exponential",
    "Fixed",
    "InMemoryDriver",
    "Job",
    "JobId",
    "Log",
    "PgQueuer",
    "PgqError",
    "ProcessExecutor",
    "PsycopgDriver",
    "Queries",
    "QueueExecutionMode",
    "QueueManager",
    "Resources",
    "RetryRequested",
    "Schedule",
    "ScheduleContext",
    "ScheduleExecutor",
    "SchedulerManager",
    "Settings",
    "SyncPsycopgDriver",
    "SyncQueries",
]
