"""Many jobs from standard input: reading lines, and enqueueing them in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import NoReturn, cast

import anyio.to_thread
import psycopg

from pgq_trio.cli.lines import Lines
from pgq_trio.cli.program import Failure, describe
from pgq_trio.cli.progress import progress_bar
from pgq_trio.client.queries import Queries
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.enqueue import ExecuteAfter, Headers, new_jobs
from pgq_trio.types import JobId, OnConflict

#: Jobs and bytes of one batch, each of which is written by one statement.
BATCH_JOBS = 1000
BATCH_BYTES = 8_000_000

#: Seconds after which what has come is enqueued, however little it is.
FLUSH_AFTER = 1.0

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
    """Jobs of lines that follow each other.

    Attributes:
        numbers: which line each of the rows is from.
        problem: what is wrong with the next line.
    """

    first_line: int
    rows: list[Row] = field(default_factory=list[Row])
    numbers: list[int] = field(default_factory=list[int])
    lines: int = 0
    size: int = 0
    problem: str | None = None
    is_last: bool = False

    @property
    def last_line(self) -> int:
        """The number of its last line."""
        return self.first_line + self.lines - 1


@dataclass(slots=True)
class Account:
    """What has become of the lines, also where the enqueueing was interrupted.

    Attributes:
        ids: of the jobs, None where a job was skipped.
        lines: how many lines are done with.
        in_doubt: the last line of the batch that is being written.
    """

    ids: list[JobId | None] = field(default_factory=list["JobId | None"])
    lines: int = 0
    in_doubt: int | None = None

    def text(self) -> str:
        """Return up to which line there are jobs."""
        done = f"{_lines(1, self.lines)} enqueued" if self.lines else "nothing was enqueued"
        if self.in_doubt is None:
            return done
        return f"{done}; whether {_lines(self.lines + 1, self.in_doubt)} is unknown"


def _lines(first: int, last: int) -> str:
    return f"line {first} was" if first == last else f"the lines {first} to {last} were"


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
    found: object = json.loads(line, parse_constant=_refuse)
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
    # Not NaN: 1e999 reads as infinity, which JSON cannot say.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


class Reader:
    """Makes batches of what a stream holds.

    Args:
        lines: where lines come from.
        entrypoint: of all jobs.
        parse: a line and what all jobs have in common, to a job.
        common: that.
    """

    def __init__(
        self,
        lines: Lines,
        entrypoint: str,
        parse: Callable[[bytes, Row], Row | None],
        common: Row,
    ) -> None:
        self._lines = lines
        self._entrypoint = entrypoint
        self._parse = parse
        self._common = common

    def batches(self) -> Iterator[Batch]:
        """Read, and yield batches; the last one ends before the first malformed line.

        A batch is yielded `FLUSH_AFTER` seconds after its first job came, or when it is full.
        """
        first = 1
        while True:
            batch = self._read(first)
            yield batch
            if batch.is_last:
                return
            first += batch.lines

    def _read(self, first: int) -> Batch:
        batch = Batch(first)
        deadline: float | None = None
        while len(batch.rows) < BATCH_JOBS and batch.size < BATCH_BYTES:
            line = self._lines.next(None if deadline is None else max(0, deadline - monotonic()))
            if line is None:
                break
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
                batch.numbers.append(first + batch.lines - 1)
                batch.size += len(line)
                deadline = deadline or monotonic() + FLUSH_AFTER
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


async def enqueue_batches(
    queries: Queries, reader: Reader, entrypoint: str, on_conflict: OnConflict, account: Account
) -> None:
    """Enqueue all that a reader has, and keep account of it.

    Raises:
        Failure: a line is malformed, or a dedupe key is taken. It says which lines are enqueued.

    Cancellation: batches that were written stay; `account` says which.
    """
    batches = reader.batches()
    with progress_bar("enqueued", None) as progress:
        while (
            batch := await anyio.to_thread.run_sync(next, batches, None, abandon_on_cancel=True)
        ) is not None:
            if batch.rows:
                account.in_doubt = batch.last_line
                try:
                    account.ids += await _enqueue(queries, batch, entrypoint, on_conflict)
                except DuplicateJobError as exc:
                    account.in_doubt = None
                    raise Failure(
                        f"{_conflict(batch, exc)}, so none of the lines {batch.first_line} to "
                        f"{batch.last_line} was enqueued; {_before(account)}. With --on-conflict "
                        "skip that is no error"
                    ) from exc
            account.lines += batch.lines
            account.in_doubt = None
            progress(len(account.ids))
            if batch.problem is not None:
                raise Failure(f"{batch.problem}; {_before(account)}, nothing from there on was")


def _before(account: Account) -> str:
    return account.text() if account.lines else "nothing was enqueued before it"


def _conflict(batch: Batch, exc: DuplicateJobError) -> str:
    """Return whose dedupe key is the problem, as far as the server has told."""
    cause = exc.__cause__
    detail = (cause.diag.message_detail if isinstance(cause, psycopg.Error) else None) or ""
    # In every language the key is shown like this; of keys that hold each other it is the longest.
    keys = {row.dedupe_key for row in batch.rows if row.dedupe_key is not None}
    key = max((key for key in keys if f"=({key})" in detail), key=len, default=None)
    if key is None:
        return "a dedupe key is taken, or given twice"
    numbers = [
        number
        for number, row in zip(batch.numbers, batch.rows, strict=True)
        if row.dedupe_key == key
    ]
    shown = repr(key if len(key) <= 100 else f"{key[:100]}...")
    if len(numbers) > 1:
        return f"the lines {numbers[0]} and {numbers[1]} have the same dedupe key {shown}"
    return f"line {numbers[0]}: the dedupe key {shown} is taken"


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
