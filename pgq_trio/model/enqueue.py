"""What a caller of `enqueue` may give, checked and brought into one shape before any I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, cast

#: When a job may run: an offset from the database's now, a `timedelta` or seconds, or an aware
#: point in time.
ExecuteAfter: TypeAlias = timedelta | float | datetime
Headers: TypeAlias = Mapping[str, object]

_INT4 = range(-(2**31), 2**31)
#: PostgreSQL's bytea holds less than 1 GiB; a bound below it leaves room for the protocol.
MAX_PAYLOAD_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """One job to insert. `headers` is JSON text, None without headers.

    At most one of `delay` and `execute_at` is set; neither means at once.
    """

    entrypoint: str
    payload: bytes | None
    priority: int
    delay: timedelta | None
    execute_at: datetime | None
    dedupe_key: str | None
    headers: str | None


def new_jobs(
    entrypoint: str | Sequence[str],
    payload: bytes | Sequence[bytes | None] | None,
    priority: int | Sequence[int],
    execute_after: ExecuteAfter | Sequence[ExecuteAfter | None] | None,
    dedupe_key: str | Sequence[str | None] | None,
    headers: Headers | Sequence[Headers | None] | None,
) -> list[NewJob]:
    """Turn the arguments of `enqueue` into jobs.

    A single entrypoint makes one job; a list of them makes a batch over which scalars are
    broadcast.

    Raises:
        TypeError: an argument has a type the queue cannot store.
        ValueError: lists of different lengths, a naive datetime, text PostgreSQL cannot store,
            a priority outside of 32 bits.
    """
    if isinstance(entrypoint, str):
        count, entrypoints = 1, [entrypoint]
    else:
        entrypoints = list(entrypoint)
        count = len(entrypoints)
    payloads = _column("payload", payload, count, bytes, bytearray, memoryview)
    priorities = _column("priority", priority, count, int)
    afters = _column("execute_after", execute_after, count, timedelta, int, float, datetime)
    keys = _column("dedupe_key", dedupe_key, count, str)
    heads = _column("headers", headers, count, Mapping)
    return [
        _new_job(*row)
        for row in zip(entrypoints, payloads, priorities, afters, keys, heads, strict=True)
    ]


def _column(name: str, value: object, count: int, *scalars: type) -> list[object]:
    if value is None or isinstance(value, scalars):
        return [value] * count
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} has the wrong type: {type(value).__name__}")
    column = list(cast("Sequence[object]", value))
    if len(column) != count:
        raise ValueError(
            f"{name} has {len(column)} entries for {count} entrypoint(s); "
            "give one for each, or one value for all"
        )
    return column


def _new_job(
    entrypoint: object,
    payload: object,
    priority: object,
    after: object,
    dedupe_key: object,
    headers: object,
) -> NewJob:
    if not isinstance(entrypoint, str) or not entrypoint:
        raise TypeError(f"an entrypoint is a non-empty string, got {entrypoint!r}")
    delay, execute_at = _when(after)
    return NewJob(
        entrypoint=checked_text("entrypoint", entrypoint),
        payload=_payload(payload),
        priority=_priority(priority),
        delay=delay,
        execute_at=execute_at,
        dedupe_key=None if dedupe_key is None else checked_text("dedupe_key", dedupe_key),
        headers=None if headers is None else _headers(headers),
    )


def checked_text(name: str, value: object) -> str:
    """Return a text that PostgreSQL can store.

    Raises:
        TypeError: it is no string.
        ValueError: it holds a NUL byte or a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is a string, got {type(value).__name__}")
    if "\x00" in value:
        raise ValueError(f"{name} {value!r} holds a NUL byte, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{name} {value!r} holds a lone surrogate, which is no text") from exc
    return value


def _payload(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(
            f"payload is bytes or None, got {type(value).__name__}; encode it, "
            "for example with json.dumps(...).encode()"
        )
    data = bytes(cast("bytes", value))
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"payload has {len(data)} bytes; PostgreSQL stores less than 1 GiB in a row. "
            "Store it elsewhere and enqueue its address."
        )
    return data


def _priority(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"priority is an int, got {value!r}")
    if value not in _INT4:
        raise ValueError(f"priority {value} does not fit into 32 bits")
    return value


def _when(value: object) -> tuple[timedelta | None, datetime | None]:
    if value is None:
        return None, None
    if isinstance(value, timedelta):
        return value, None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value), None
        except (ValueError, OverflowError) as exc:
            raise ValueError(f"execute_after {value!r} is no number of seconds: {exc}") from exc
    if not isinstance(value, datetime):
        raise TypeError(
            f"execute_after is a timedelta, seconds or an aware datetime, got {value!r}"
        )
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"execute_after {value.isoformat()} has no time zone; "
            "use an aware datetime, for example datetime.now(UTC) + timedelta(hours=1)"
        )
    return None, value


def _headers(value: object) -> str:
    if not isinstance(value, Mapping):
        raise TypeError(f"headers is a mapping, got {type(value).__name__}")
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"headers cannot be stored as JSON: {exc}") from exc
    if "\\u" in text:
        _check_header_texts(cast("object", value))
    return text


def _check_header_texts(value: object) -> None:
    if isinstance(value, str):
        checked_text("headers", value)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            _check_header_texts(key)
            _check_header_texts(item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[object]", value):
            _check_header_texts(item)
