"""Notifications: building and reading PgQueuer's JSON events, and our own beside them.

PgQueuer's workers log an error for each event of a type they do not know, so ours have channels of
their own. Completions cost nothing while nobody waits: whoever waits says so on one channel, and
for a while after that workers tell on the other which jobs have ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Literal, TypeAlias, cast

from pgq_trio.model.names import MAX_IDENTIFIER_BYTES
from pgq_trio.types import JobId

#: "work" is PgQueuer's channel; on "interest" watchers speak to workers, on "outcomes" workers to
#: watchers.
Channel: TypeAlias = Literal["work", "interest", "outcomes"]

_SUFFIXES: dict[Channel, str] = {"work": "", "interest": "_interest", "outcomes": "_outcomes"}

#: For so many seconds after it was announced, workers believe that somebody waits. Whoever waits
#: for long repeats it, so often that two announcements may get lost.
INTEREST_LASTS = 60.0
INTEREST_REPEATED = 20.0

#: NOTIFY refuses payloads of 8000 bytes and more; this leaves room for the envelope.
MAX_IDS_BYTES = 7000

#: Operations after which an idle worker may find runnable work. A delete may free a slot, which is
#: for those to know that wait for one.
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
class OutcomesWanted:
    """Somebody waits for jobs to end: workers are to tell which do."""


@dataclass(frozen=True, slots=True)
class WorkerListens:
    """A worker began to listen, and has not heard what was announced before."""


@dataclass(frozen=True, slots=True)
class JobsEnded:
    """A worker has written outcomes of these jobs; the tables know which."""

    ids: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing for us: a health check, or malformed (then `problem` says how)."""

    problem: str | None = None


Event: TypeAlias = (
    TableChanged | CancellationRequested | OutcomesWanted | WorkerListens | JobsEnded | Ignored
)


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
            ids = _parse_ids(message)
            return ids if isinstance(ids, Ignored) else CancellationRequested(ids)
        case "jobs_ended_event":
            ids = _parse_ids(message)
            return ids if isinstance(ids, Ignored) else JobsEnded(ids)
        case "outcomes_wanted_event":
            return OutcomesWanted()
        case "worker_listens_event":
            return WorkerListens()
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


def _parse_ids(message: dict[str, object]) -> tuple[JobId, ...] | Ignored:
    ids = message.get("ids")
    if not isinstance(ids, list):
        return Ignored(f"{message['type']} without a list of ids")
    items = cast("list[object]", ids)
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return Ignored(f"{message['type']} with ids that are no integers")
    return tuple(cast("list[int]", items))


def channel_name(work: str, channel: Channel) -> str:
    """Return the name of a channel in the database.

    Args:
        work: PgQueuer's channel, `Settings.channel`. With a suffix its name may be longer than
            PostgreSQL allows: the front of it and a digest of all of it stand for it then.
        channel: which of them.
    """
    suffix = _SUFFIXES[channel]
    if len((work + suffix).encode()) <= MAX_IDENTIFIER_BYTES:
        return work + suffix
    suffix = f"_{sha256(work.encode()).hexdigest()[:16]}{suffix}"
    front = work.encode()[: MAX_IDENTIFIER_BYTES - len(suffix)].decode(errors="ignore")
    return front + suffix


def cancellation_events(ids: Sequence[JobId], *, channel: str, sent_at: datetime) -> Iterator[str]:
    """Build the events that cancel running jobs, each within NOTIFY's limit."""
    for chunk in _chunks(ids):
        yield json.dumps(
            {
                "channel": channel,
                "sent_at": sent_at.isoformat(),
                "type": "cancellation_event",
                "ids": chunk,
            }
        )


def ended_events(ids: Sequence[JobId]) -> Iterator[str]:
    """Build the events that tell watchers which jobs have ended, each within NOTIFY's limit."""
    for chunk in _chunks(ids):
        yield json.dumps({"type": "jobs_ended_event", "ids": chunk})


def outcomes_wanted_event() -> str:
    """Build the event that tells workers that somebody waits for jobs to end."""
    return json.dumps({"type": "outcomes_wanted_event"})


def worker_listens_event() -> str:
    """Build the event that asks watchers to announce again that they wait."""
    return json.dumps({"type": "worker_listens_event"})


def _chunks(ids: Sequence[JobId]) -> Iterator[list[JobId]]:
    chunk: list[JobId] = []
    size = 0
    for job_id in ids:
        width = len(str(job_id)) + 2
        if chunk and size + width > MAX_IDS_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(job_id)
        size += width
    if chunk:
        yield chunk
