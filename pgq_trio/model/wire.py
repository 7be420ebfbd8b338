"""Notifications on the shared channel: building and reading PgQueuer's JSON events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias, cast

from pgq_trio.types import JobId

#: NOTIFY refuses payloads of 8000 bytes and more; this leaves room for the envelope.
MAX_IDS_BYTES = 7000

#: Operations after which a worker may find runnable work. A delete never makes work runnable.
WAKING_OPERATIONS = frozenset({"insert", "update"})


@dataclass(frozen=True, slots=True)
class TableChanged:
    """Rows of a table changed; `operation` is insert, update, delete or truncate.

    PgQueuer names the queue table only; with the schedules table the event is ours, and PgQueuer's
    workers take it as a reason to look for work once.
    """

    operation: str
    table: str = field(default="", compare=False)

    @property
    def may_bring_work(self) -> bool:
        """Whether an idle worker should look for work."""
        return self.operation in WAKING_OPERATIONS


@dataclass(frozen=True, slots=True)
class CancellationRequested:
    """Somebody cancelled these jobs; whoever runs one cancels its scope."""

    ids: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing for us: a health check, or malformed (then `problem` says how)."""

    problem: str | None = None


Event: TypeAlias = TableChanged | CancellationRequested | Ignored


def parse_event(payload: str) -> Event:
    """Read a notification; anybody may send on the channel, so this never raises."""
    try:
        value: object = json.loads(payload)
    except (ValueError, RecursionError):
        return Ignored("not JSON")
    if not isinstance(value, dict):
        return Ignored("not a JSON object")
    message = cast("dict[str, object]", value)
    match message.get("type"):
        case "table_changed_event":
            return _parse_table_changed(message)
        case "cancellation_event":
            return _parse_cancellation(message)
        case "health_check_event":
            return Ignored()
        case other:
            return Ignored(f"unknown type {other!r}")


def _parse_table_changed(message: dict[str, object]) -> Event:
    operation = message.get("operation")
    if not isinstance(operation, str):
        return Ignored("table_changed_event without an operation")
    table = message.get("table")
    return TableChanged(operation, table if isinstance(table, str) else "")


def _parse_cancellation(message: dict[str, object]) -> Event:
    ids = message.get("ids")
    if not isinstance(ids, list):
        return Ignored("cancellation_event without a list of ids")
    items = cast("list[object]", ids)
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return Ignored("cancellation_event with ids that are no integers")
    return CancellationRequested(tuple(cast("list[int]", items)))


def cancellation_events(ids: Sequence[JobId], *, channel: str, sent_at: datetime) -> Iterator[str]:
    """Build the events that cancel running jobs, each within NOTIFY's limit."""
    chunk: list[JobId] = []
    size = 0
    for job_id in ids:
        width = len(str(job_id)) + 2
        if chunk and size + width > MAX_IDS_BYTES:
            yield _cancellation(chunk, channel, sent_at)
            chunk, size = [], 0
        chunk.append(job_id)
        size += width
    if chunk:
        yield _cancellation(chunk, channel, sent_at)


def _cancellation(ids: list[JobId], channel: str, sent_at: datetime) -> str:
    return json.dumps(
        {
            "channel": channel,
            "sent_at": sent_at.isoformat(),
            "type": "cancellation_event",
            "ids": ids,
        }
    )
