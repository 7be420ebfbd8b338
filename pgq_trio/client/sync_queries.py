"""`SyncQueries`: the jobs' side of `Queries` for programs without an event loop."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar, overload

from pgq_trio.abc import Backend, Driver
from pgq_trio.abc.drivers import SyncDriver
from pgq_trio.client.base import Names
from pgq_trio.client.job_queries import checked_conflict
from pgq_trio.client.queries import Queries
from pgq_trio.model.enqueue import ExecuteAfter, Headers, new_jobs
from pgq_trio.models import Job, Log, QueueStatistics
from pgq_trio.settings import Settings
from pgq_trio.types import JobId, JobStatus, OnConflict, SortOrder

__all__ = ["SyncQueries"]

T = TypeVar("T")


class SyncQueries:
    """Asking for work from Flask, Django, scripts: each call blocks until the server answers.

    On a connection, each call is part of the caller's transaction: visible, and waking workers,
    when that commits; gone when it rolls back. It never commits. On a pool each call is a
    transaction of its own. `SyncPsycopgDriver` says what may be given.

    It is as safe to use from several threads as the connection or pool under it.

    Args:
        driver: `pgq_trio.db.SyncPsycopgDriver(connection_or_pool)`.
        settings: names of the database objects; None: from the environment.

    Raises:
        TypeError: this is no driver that works without an event loop.
    """

    def __init__(self, driver: SyncDriver, *, settings: Settings | None = None) -> None:
        if not isinstance(driver, SyncDriver):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "SyncQueries takes SyncPsycopgDriver(connection_or_pool), got "
                f"{type(driver).__name__}; on an event loop use Queries(driver)"
            )
        self.driver = driver
        self._queries = Queries(_Unsuspending(driver), settings=settings)

    @property
    def settings(self) -> Settings:
        """The names of the database objects in use."""
        return self._queries.settings

    @overload
    def enqueue(
        self,
        entrypoint: str | Sequence[str],
        payload: bytes | Sequence[bytes | None] | None = None,
        priority: int | Sequence[int] = 0,
        execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None = None,
        dedupe_key: str | Sequence[str | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
    ) -> list[JobId]: ...

    @overload
    def enqueue(
        self,
        entrypoint: str | Sequence[str],
        payload: bytes | Sequence[bytes | None] | None = None,
        priority: int | Sequence[int] = 0,
        execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None = None,
        dedupe_key: str | Sequence[str | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
        *,
        on_conflict: OnConflict,
    ) -> list[JobId | None]: ...

    def enqueue(
        self,
        entrypoint: str | Sequence[str],
        payload: bytes | Sequence[bytes | None] | None = None,
        priority: int | Sequence[int] = 0,
        execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None = None,
        dedupe_key: str | Sequence[str | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
        *,
        on_conflict: OnConflict = "raise",
    ) -> list[JobId] | list[JobId | None]:
        """Insert one job, or a batch in one statement; see `Queries.enqueue`.

        In the caller's transaction a taken dedupe key aborts it, as any failed statement does,
        unless `on_conflict` is "skip" or "update_priority".

        Raises:
            TypeError, ValueError: an argument the queue cannot store; nothing was written.
            DuplicateJobError: a dedupe key is taken; nothing was written.
            SchemaMissing: the tables are not there.
            ConnectionLost: whether it was written is unknown.
        """
        if not isinstance(entrypoint, str) and len(entrypoint) == 0:
            # The store would let the event loop run: there is none.
            new_jobs(entrypoint, payload, priority, execute_after, dedupe_key, headers)
            checked_conflict(on_conflict)
            return []
        return _result_of(
            self._queries.enqueue(
                entrypoint,
                payload,
                priority,
                execute_after,
                dedupe_key,
                headers,
                on_conflict=on_conflict,
            )
        )

    def mark_job_as_cancelled(self, ids: JobId | Collection[JobId]) -> set[JobId]:
        """Cancel jobs: queued ones are gone, running ones get their scope cancelled.

        Returns the ids that were there.
        """
        return _result_of(self._queries.mark_job_as_cancelled(ids))

    def requeue_jobs(self, ids: JobId | Collection[JobId]) -> set[JobId]:
        """Queue held jobs again with `attempts = 0`. Returns the ids that were requeued."""
        return _result_of(self._queries.requeue_jobs(ids))

    def list_failed_jobs(self, limit: int = 100, order: SortOrder = "DESC") -> list[Job]:
        """Return held jobs, by default the last created first; "ASC": the first created first."""
        return _result_of(self._queries.list_failed_jobs(limit, order))

    def queue_size(self) -> list[QueueStatistics]:
        """Count jobs by entrypoint, priority and status."""
        return _result_of(self._queries.queue_size())

    def queue_log(self, *, job_id: JobId | None = None, limit: int | None = None) -> list[Log]:
        """Return log rows, oldest first: all, or of one job, or the newest `limit`."""
        return _result_of(self._queries.queue_log(job_id=job_id, limit=limit))

    def job_status(self, ids: JobId | Collection[JobId]) -> list[tuple[JobId, JobStatus]]:
        """Return the last known state of each job anybody knows, in the order of `ids`."""
        return _result_of(self._queries.job_status(ids))

    def clear_queue(self, entrypoint: Names = None) -> int:
        """Delete the jobs of these entrypoints; None: of all. An empty list deletes nothing."""
        return _result_of(self._queries.clear_queue(entrypoint))

    def clear_queue_log(self, entrypoint: Names = None) -> int:
        """Delete the log rows of these entrypoints; None: of all. An empty list: nothing."""
        return _result_of(self._queries.clear_queue_log(entrypoint))

    def install(self) -> None:
        """Create the tables, types, indexes and the trigger; leaves alone what is there."""
        _result_of(self._queries.install())

    def verify(self) -> list[str]:
        """Return a line for each missing or differing object and the command that mends it."""
        return _result_of(self._queries.verify())


class _Unsuspending(Driver):
    """Lets `Queries` work on stores that never suspend."""

    def __init__(self, driver: SyncDriver) -> None:
        self._driver = driver

    def backend(self, settings: Settings) -> Backend:
        return self._driver.sync_backend(settings)


def _result_of(operation: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        operation.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    operation.close()
    raise RuntimeError(
        f"{operation!r} waits for an event loop, and SyncQueries has none: a fault of "
        "this package, please report it"
    )
