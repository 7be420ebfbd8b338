"""`Queries`: enqueueing jobs, reading and changing the queue; it runs no handler."""

from __future__ import annotations

from pgq_trio.client.completion import CompletionWatcher
from pgq_trio.client.insight_queries import InsightQueries
from pgq_trio.client.job_queries import JobQueries
from pgq_trio.client.schedule_queries import ScheduleQueries
from pgq_trio.client.schema_queries import SchemaQueries
from pgq_trio.types import JobId, JobStatus

__all__ = ["Queries"]


class Queries(SchemaQueries, JobQueries, InsightQueries, ScheduleQueries):
    """Everything one can ask of the queue, on one driver.

    Cancellation: each call takes effect wholly or not at all; cancelled in flight, which of the
    two is unknown to the caller.

    Args:
        driver: one of `pgq_trio.db`.
        settings: names of the database objects; None: from the environment.
    """

    async def wait_for(self, job_id: JobId) -> JobStatus:
        """Wait until a job has ended, or is held as failed; returns that state.

        It listens on a connection of its own for so long: for many jobs at once take one
        `CompletionWatcher`, whose `wait_for` this is.

        Raises:
            UnknownJob: nobody knows such a job; one that is enqueued in a transaction is known
                only after its commit.
            SchemaMissing: the tables are not there.
            StoreError: the server refuses the connection for a reason that lasts. One that is
                away for a while is waited for.
        """
        async with CompletionWatcher(self) as watcher:
            return await watcher.wait_for(job_id)
