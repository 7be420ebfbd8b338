"""Makes `Log` records of rows of the log table; knows no store."""

from __future__ import annotations

import json
from typing import Any

from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.models import Log

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
        traceback=None if traceback is None else TracebackRecord.from_json(json.loads(traceback)),
        aggregated=bool(aggregated),
    )
