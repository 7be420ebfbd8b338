"""Many jobs from standard input: reading lines, and enqueueing them in batches."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import BinaryIO, cast

import anyio.to_thread

from pgq_trio.cli.program import Failure, describe
from pgq_trio.cli.progress import progress_bar
from pgq_trio.client.queries import Queries
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.enqueue import ExecuteAfter, Headers, new_jobs
from pgq_trio.types import JobId, OnConflict

#: Jobs and bytes of one batch, each of which is written by one statement.
BATCH_JOBS = 1000
BATCH_BYTES = 8_000_000

#: A longer line holds no payload that the queue takes.
LONGEST_LINE = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job that is asked for."""

    payload: bytes | None = None
    priority: int = 0
    execute_after: ExecuteAfter | None = None
    dedupe_key: str | None = None
    headers: Headers | None = None


@dataclass(slots=True)
class Batch:
    """Jobs of lines that follow each other; `problem` says what is wrong with the next line."""

    first_line: int
    rows: list[Row] = field(default_factory=list[Row])
    lines: int = 0
    size: int = 0
    problem: str | None = None
    is_last: bool = False


def payload_of(line: bytes, common: Row) -> Row:
    """Return the job whose payload is a line, without its end."""
    return replace(common, payload=line)


def object_of(line: bytes, common: Row) -> Row | None:
    """Return the job that a JSON object describes; None for a line with nothing in it.

    Raises:
        TypeError, ValueError: it is no such object.
    """
    if not line.strip():
        return None
    found: object = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError(f"an object is expected, not {line[:40]!r}")
    values = cast("dict[str, object]", found)
    known = {"payload", "priority", "execute_after", "dedupe_key", "headers"}
    if unknown := values.keys() - known:
        raise ValueError(f"{min(unknown)!r} is none of {', '.join(sorted(known))}")
    return replace(common, **_checked(values))  # type: ignore[arg-type]


def _checked(values: Mapping[str, object]) -> dict[str, object]:
    checked = dict(values)
    if "payload" in values:
        checked["payload"] = _payload(values["payload"])
    after = values.get("execute_after")
    if isinstance(after, str):
        checked["execute_after"] = datetime.fromisoformat(after)
    if checked.get("priority", 0) is None:
        del checked["priority"]
    return checked


def _payload(value: object) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Reader:
    """Makes batches of what a stream holds.

    Args:
        stream: where lines come from.
        entrypoint: of all jobs.
        parse: a line and what all jobs have in common, to a job.
        common: that.
    """

    def __init__(
        self,
        stream: BinaryIO,
        entrypoint: str,
        parse: Callable[[bytes, Row], Row | None],
        common: Row,
    ) -> None:
        self._stream = stream
        self._entrypoint = entrypoint
        self._parse = parse
        self._common = common

    def batches(self) -> Iterator[Batch]:
        """Read, and yield batches; the last one ends before the first malformed line."""
        first = 1
        while True:
            batch = self._read(first)
            yield batch
            if batch.is_last:
                return
            first += batch.lines

    def _read(self, first: int) -> Batch:
        batch = Batch(first)
        while len(batch.rows) < BATCH_JOBS and batch.size < BATCH_BYTES:
            line = self._stream.readline(LONGEST_LINE + 1)
            if not line:
                batch.is_last = True
                break
            try:
                row = self._row(line)
            except (TypeError, ValueError) as exc:
                batch.problem = f"line {first + batch.lines}: {describe_line(exc)}"
                batch.is_last = True
                break
            batch.lines += 1
            if row is not None:
                batch.rows.append(row)
                batch.size += len(line)
        return batch

    def _row(self, line: bytes) -> Row | None:
        if len(line) > LONGEST_LINE:
            raise ValueError(f"it is longer than {LONGEST_LINE} bytes")
        row = self._parse(line.removesuffix(b"\n").removesuffix(b"\r"), self._common)
        if row is not None:
            new_jobs(
                *(self._entrypoint, row.payload, row.priority),
                *(row.execute_after, row.dedupe_key, row.headers),
            )
        return row


def describe_line(exc: Exception) -> str:
    """Return what is wrong with a line."""
    if isinstance(exc, json.JSONDecodeError):
        return f"no JSON: {exc.msg} at column {exc.colno}"
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(exc) or describe(exc)


def standard_input() -> BinaryIO:
    """Return the bytes of standard input.

    Not Python's own reader, whose lock would be held at the end of the interpreter by a thread
    that still waits for a line.
    """
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (AttributeError, OSError, io.UnsupportedOperation):
        return sys.stdin.buffer


async def enqueue_batches(
    queries: Queries, reader: Reader, entrypoint: str, on_conflict: OnConflict
) -> list[JobId | None]:
    """Enqueue all that a reader has; return the ids, None where a job was skipped.

    Raises:
        Failure: a line is malformed, or a dedupe key is taken. It says which lines are enqueued.

    Cancellation: batches that were written stay.
    """
    ids: list[JobId | None] = []
    batches = reader.batches()
    lines = 0
    with progress_bar("enqueued", None) as progress:
        while (
            batch := await anyio.to_thread.run_sync(next, batches, None, abandon_on_cancel=True)
        ) is not None:
            if batch.rows:
                try:
                    ids += await _enqueue(queries, batch, entrypoint, on_conflict)
                except DuplicateJobError as exc:
                    last = batch.first_line + batch.lines - 1
                    raise Failure(
                        f"a dedupe key of the lines {batch.first_line} to {last} is taken, so none "
                        f"of them was enqueued; {_before(lines)}. With --on-conflict skip that is "
                        "no error"
                    ) from exc
                progress(len(ids))
            lines += batch.lines
            if batch.problem is not None:
                raise Failure(f"{batch.problem}; {_before(lines)}, nothing from there on was")
    return ids


def _before(lines: int) -> str:
    if not lines:
        return "nothing was enqueued before it"
    return "line 1 was enqueued" if lines == 1 else f"the lines 1 to {lines} were enqueued"


async def _enqueue(
    queries: Queries, batch: Batch, entrypoint: str, on_conflict: OnConflict
) -> list[JobId | None]:
    rows = batch.rows
    return await queries.enqueue(
        [entrypoint] * len(rows),
        [row.payload for row in rows],
        [row.priority for row in rows],
        [row.execute_after for row in rows],
        [row.dedupe_key for row in rows],
        [row.headers for row in rows],
        on_conflict=on_conflict,
    )
