"""The ports between the rooms; their docstrings are the contract every implementation keeps.

Common to all operations of a store: one call is one request, one atomic change, one reply. All
times come from the store's own clock. Every operation is a checkpoint. Cancelled in flight, an
operation took effect or it did not, never in part; which of the two the caller cannot know, so
whoever must know shields the call. A broken connection raises `ConnectionLost`, missing objects
`SchemaMissing`, anything else the database refuses `StoreError`.
"""

from pgq_trio.abc.drivers import Backend, Driver, SyncDriver
from pgq_trio.abc.hooks import Observer, RetryPolicy
from pgq_trio.abc.insights import InsightStore
from pgq_trio.abc.jobs import Claimed, ClaimRequest, JobStore
from pgq_trio.abc.notifier import Notifier
from pgq_trio.abc.schedules import NewSchedule, ScheduleStore, Snapshot
from pgq_trio.abc.schema import SchemaStore

__all__ = [
    "Backend",
    "ClaimRequest",
    "Claimed",
    "Driver",
    "InsightStore",
    "JobStore",
    "NewSchedule",
    "Notifier",
    "Observer",
    "RetryPolicy",
    "ScheduleStore",
    "SchemaStore",
    "Snapshot",
    "SyncDriver",
]
