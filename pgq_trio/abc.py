"""The ports between the rooms; their docstrings are the contract every implementation keeps.

Common to all operations of a store: one call is one request, one atomic change, one reply. All
times come from the store's own clock. Every operation is a checkpoint. Cancelled in flight, an
operation took effect or it did not, never in part; which of the two the caller cannot know, so
whoever must know shields the call. A broken connection raises `ConnectionLost`, missing objects
`SchemaMissing`, anything else the database refuses `StoreError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.events import Event
from pgq_trio.model.outcomes import Claim, Finished
from pgq_trio.models import Job, Log, QueueStatistics, Schedule
from pgq_trio.settings import Settings
from pgq_trio.types import JobId, JobStatus, OnConflict, QueueManagerId

__all__ = [
    "Backend",
    "ClaimRequest",
    "Claimed",
    "Driver",
    "JobStore",
    "NewSchedule",
    "Notifier",
    "Observer",
    "RetryPolicy",
    "ScheduleStore",
    "SchemaStore",
    "Snapshot",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """What a worker asks of the queue.

    Attributes:
        queue_manager_id: who claims.
        limits: the fleet-wide concurrency limit of each registered entrypoint, 0 without one.
        batch_size: how many jobs at most, at least 1.
        limited_batch_size: how many of them at most may be of entrypoints with a limit, since a
            seat must not be held by a job that waits; may be 0.
        heartbeat_timeout: age in seconds at which the lease of a picked job has expired.
    """

    queue_manager_id: QueueManagerId
    limits: Mapping[str, int]
    batch_size: int
    limited_batch_size: int
    heartbeat_timeout: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought.

    Attributes:
        jobs: the claimed jobs, highest priority first, then lowest id; each is `picked`, with
            `queue_manager_id`, `updated` and `heartbeat` as the claim set them.
        next_due: seconds from now until the earliest of the jobs still queued for these
            entrypoints is due, looked up only when the claim got less than `batch_size`. Zero or
            less: one is due but was not to be had (locked by another worker, or its entrypoint
            has no free slot). None: none is queued, or the batch is full.
    """

    jobs: list[Job]
    next_due: float | None


class JobStore(Protocol):
    """The queue table and its log."""

    async def enqueue(
        self, jobs: Sequence[NewJob], *, on_conflict: OnConflict
    ) -> list[JobId | None]:
        """Insert all jobs or none, log each as queued, and wake the workers.

        Returns an id for each job, in order; None where `on_conflict="skip"` left one out.
        `"update_priority"` raises the priority of the job that has the key and returns its id.

        Raises:
            DuplicateJobError: a dedupe key is taken, or given twice, and `on_conflict` is "raise".
        """
        ...

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Take due jobs, and picked jobs whose lease has expired (a rescue), in one order.

        Only rows with `execute_after < now`, priority descending, then id ascending, skipping
        rows another transaction has locked. Each becomes `picked` by the worker with
        `updated = heartbeat = now` and is logged; a rescue also adds one to `attempts`. A fresh
        claim of a limited entrypoint takes its lowest free slot; a rescue keeps the row's slot.
        Losing a race for a slot is no error: what was lost is not claimed.
        """
        ...

    async def finish(
        self, queue_manager_id: QueueManagerId, finished: Sequence[Finished]
    ) -> set[JobId]:
        """Write outcomes, each only where its claim still owns the row.

        successful, exception, canceled: the row is deleted. failed: the row stays, `failed`,
        owned by nobody. retry: `queued` again, due after `delay`, one more attempt, owned by
        nobody, and the workers are woken. Each outcome is logged with its traceback.

        Returns the ids that were written; a missing one lost its lease.
        """
        ...

    async def release(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        """Queue interrupted jobs again, runnable at once, without spending an attempt.

        Only where the claim still owns the row; logs them as queued, frees their slots and wakes
        the workers. Returns the ids that were released.
        """
        ...

    async def heartbeat(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        """Renew leases: set `heartbeat = now` and nothing else.

        Returns the ids still owned; a missing one lost its lease.
        """
        ...

    async def cancel(self, ids: Collection[JobId]) -> set[JobId]:
        """Cancel jobs in any state: delete their rows, log them as canceled, tell the workers.

        One atomic change for any number of ids. Returns the ids that were there.
        """
        ...

    async def requeue(self, ids: Collection[JobId]) -> set[JobId]:
        """Queue held (`failed`) jobs again with `attempts = 0`, and wake the workers.

        A job whose dedupe key is taken meanwhile is left as it is. Returns the requeued ids.
        """
        ...

    async def clear(self, entrypoints: Collection[str] | None) -> int:
        """Delete the jobs of these entrypoints, of all with None, and log them as deleted.

        An empty collection deletes nothing. Returns how many rows went.
        """
        ...

    async def clear_log(self, entrypoints: Collection[str] | None) -> int:
        """Delete log rows of these entrypoints, of all with None. Returns how many went."""
        ...

    async def queue_size(self) -> list[QueueStatistics]:
        """Count jobs by entrypoint, priority and status, in this order."""
        ...

    async def log(self, *, job_id: JobId | None = None, limit: int | None = None) -> list[Log]:
        """Return log rows, oldest first: of one job or of all, the newest `limit` of them."""
        ...

    async def job_status(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        """Return the last known state of each job anybody knows: its row's, else its last log's."""
        ...

    async def failed_jobs(self, *, limit: int) -> list[Job]:
        """Return held jobs, the last created first."""
        ...


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to make known; `next_run` is its first fire time."""

    entrypoint: str
    expression: str
    next_run: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The schedules at one moment of the store's clock."""

    now: datetime
    schedules: list[Schedule]


class ScheduleStore(Protocol):
    """The schedules table: one row for each entrypoint and expression."""

    async def snapshot(self) -> Snapshot:
        """Return all schedules and the store's now, ordered by id."""
        ...

    async def add(self, schedules: Sequence[NewSchedule]) -> None:
        """Insert those schedules that are not there yet; leave the others as they are."""
        ...

    async def claim(
        self, schedule: Schedule, *, next_run: datetime, heartbeat_timeout: float
    ) -> Schedule | None:
        """Take one fire of a schedule, at most one worker for each.

        Succeeds only if the row still has the `next_run` and `updated` of the given snapshot and
        is queued and due, or is picked with a heartbeat older than the timeout (seconds). Sets
        `picked`, `updated = heartbeat = now` and the new `next_run`. Returns the row, or None
        when another worker was first.
        """
        ...

    async def heartbeat(self, schedules: Sequence[Schedule]) -> set[int]:
        """Renew the leases of claimed schedules. Returns the ids still owned."""
        ...

    async def finish(self, schedule: Schedule, *, next_run: datetime | None = None) -> bool:
        """End a claimed fire: `queued` again with `last_run = now`, if the claim still owns it.

        With `next_run` the fire was interrupted: it becomes due again at that time and `last_run`
        stays as it was. Returns whether the claim still owned the row.
        """
        ...

    async def delete(self, *, ids: Collection[int] = (), entrypoints: Collection[str] = ()) -> int:
        """Delete schedules by id or entrypoint. Returns how many went."""
        ...

    async def clear(self) -> int:
        """Delete all schedules. Returns how many went."""
        ...


class SchemaStore(Protocol):
    """The objects in the database."""

    async def install(self) -> None:
        """Create every object, all or none; objects that are there already are left alone.

        Raises:
            SchemaDrift: a table that is there lacks a column that an object to be created needs.
        """
        ...

    async def uninstall(self) -> None:
        """Drop every object and all data in them, all or none; missing ones are no error."""
        ...

    async def verify(self) -> list[str]:
        """Return one line for each missing or differing object, with the command that mends it."""
        ...

    async def missing(self) -> list[str]:
        """Return the names of objects `run` cannot do without that are missing; one statement."""
        ...


class Notifier(Protocol):
    """Wake-ups and cancellations from other processes."""

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen on the channel; the iterator yields payloads.

        Entering returns once the store will deliver every later notification. The iterator
        raises `ListenerLost` when the connection breaks; listening again, then looking for work,
        is the caller's business.
        """
        ...


class Backend(Protocol):
    """Everything one driver offers for one set of settings; needs no task and no opening."""

    @property
    def settings(self) -> Settings:
        """The names all parts of this backend use."""
        ...

    @property
    def jobs(self) -> JobStore:
        """The queue table and its log."""
        ...

    @property
    def schedules(self) -> ScheduleStore:
        """The schedules table."""
        ...

    @property
    def schema(self) -> SchemaStore:
        """The objects in the database."""
        ...

    @property
    def notifier(self) -> Notifier:
        """The channel of notifications."""
        ...


@runtime_checkable
class Driver(Protocol):
    """A way to a database; `pgq_trio.db` has the ready ones."""

    def backend(self, settings: Settings) -> Backend:
        """Return the stores on this driver; calls with equal settings share one store."""
        ...


class RetryPolicy(Protocol):
    """When a failed job runs again; pure, so that it can be tested without a queue."""

    def next_delay(self, job: Job, exception: Exception) -> float | None:
        """Return the seconds to wait before the next attempt, None when there is none."""
        ...


class Observer(Protocol):
    """Told of what happens in a worker, for logs, metrics and traces.

    Called on the event loop's thread between two checkpoints: it must be quick and must not wait.
    What it raises is logged and dropped.
    """

    def on_event(self, event: Event) -> None:
        """Take one event; unknown kinds are to be ignored, since releases add new ones."""
        ...
