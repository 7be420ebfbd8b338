"""Records for tests that need one and do not care about most of it."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio

from pgq_trio.models import Context, Job, Schedule, ScheduleContext

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def job(*, attempts: int = 0) -> Job:
    """A picked job."""
    return Job(
        id=1,
        priority=0,
        created=NOW,
        updated=NOW,
        heartbeat=NOW,
        execute_after=NOW,
        status="picked",
        entrypoint="work",
        attempts=attempts,
    )


def context(**resources: object) -> Context:
    """A job's context."""
    return Context(resources=resources, cancellation=anyio.CancelScope())


def schedule(expression: str = "* * * * *") -> Schedule:
    """A picked schedule."""
    return Schedule(
        id=1,
        expression=expression,
        entrypoint="tick",
        heartbeat=NOW,
        created=NOW,
        updated=NOW,
        next_run=NOW,
        status="picked",
    )


def schedule_context(**resources: object) -> ScheduleContext:
    """A schedule's context."""
    return ScheduleContext(
        resources=resources, fire_time=NOW, missed=0, cancellation=anyio.CancelScope()
    )
