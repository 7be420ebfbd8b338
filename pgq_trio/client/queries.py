"""`Queries`: enqueueing jobs, reading and changing the queue; it runs no handler."""

from __future__ import annotations

from pgq_trio.client.insight_queries import InsightQueries
from pgq_trio.client.job_queries import JobQueries
from pgq_trio.client.schedule_queries import ScheduleQueries
from pgq_trio.client.schema_queries import SchemaQueries

__all__ = ["Queries"]


class Queries(SchemaQueries, JobQueries, InsightQueries, ScheduleQueries):
    """Everything one can ask of the queue, on one driver.

    Cancellation: each call takes effect wholly or not at all; cancelled in flight, which of the
    two is unknown to the caller.

    Args:
        driver: one of `pgq_trio.db`.
        settings: names of the database objects; None: from the environment.
    """
