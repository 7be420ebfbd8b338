"""Makes `Log` records of rows of the log table; knows no store."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.models import Log
from pgq_trio.types import JobId

__all__ = ["make_log"]


def make_log(row: tuple[Any, ...]) -> Log:
    """Return a `Log`.

    Args:
        row: created, job_id, status, priority, entrypoint, traceback (JSON text), aggregated.
    """
    created, job_id, status, priority, entrypoint, traceback, aggregated = row
    return Log(
        created=created,
        job_id=job_id,
        status=status,
        priority=priority,
        entrypoint=entrypoint,
        traceback=None if traceback is None else _record(traceback, job_id, created),
        aggregated=bool(aggregated),
    )


def _record(text: str, job_id: JobId, created: datetime) -> TracebackRecord | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        # What PostgreSQL takes for JSON, Python may not: deep nesting, numbers of many digits.
        value = text
    return (
        None
        if value is None
        else TracebackRecord.from_json(value, job_id=job_id, timestamp=created)
    )
