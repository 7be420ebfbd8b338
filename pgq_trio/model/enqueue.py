"""What a caller of `enqueue` may give, checked and brought into one shape before any I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, cast

#: When a job may run: an offset from the database's now, a `timedelta` or seconds, or an aware
#: point in time.
ExecuteAfter: TypeAlias = timedelta | float | datetime
Headers: TypeAlias = Mapping[str, object]

_INT4 = range(-(2**31), 2**31)

#: A payload travels as hexadecimal text, twice its size, in messages of less than 1 GiB, and client
#: and server hold several copies of it. A quarter of that is what surely works.
MAX_PAYLOAD_BYTES = 250_000_000

#: What an entry of PostgreSQL's indexes can hold is 2704 bytes; names and keys are in indexes.
MAX_NAME_BYTES = 2500

#: Bounds of headers: their JSON text (jsonb holds less than 256 MiB) and how deep they nest (Python
#: reads about a thousand levels).
MAX_HEADERS_BYTES = 50_000_000
MAX_HEADERS_DEPTH = 100

#: The longest delay of a new job: what is later than 100 years is as good as never.
MAX_DELAY = timedelta(days=36_525)

#: Points in time that Python and PostgreSQL can hold in every time zone.
_YEARS = range(2, 9999)


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
        ValueError: lists of different lengths, a naive datetime, a point in time or a delay out
            of the calendar, a negative delay, text PostgreSQL cannot store or index, a payload
            or headers that are too large, a priority outside of 32 bits.
    """
    entrypoints = _entrypoints(entrypoint)
    count = len(entrypoints)
    payloads = _column("payload", payload, count, _payload, bytes, bytearray, memoryview)
    priorities = _column("priority", priority, count, _priority, int)
    afters = _column("execute_after", execute_after, count, _when, timedelta, int, float, datetime)
    keys = _column("dedupe_key", dedupe_key, count, _key, str)
    heads = _column("headers", headers, count, _headers, Mapping)
    return [
        _new_job(*row)
        for row in zip(entrypoints, payloads, priorities, afters, keys, heads, strict=True)
    ]


def _entrypoints(value: object) -> list[object]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise TypeError(
            f"entrypoint is a string, or a list of strings for a batch, got {type(value).__name__}"
        )
    return list(cast("Sequence[object]", value))


def _column(
    name: str, value: object, count: int, check: Callable[[object], object], *scalars: type
) -> list[object]:
    if value is None or isinstance(value, scalars):
        return [value] * count
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        check(value)  # the words for one value are those for an entry of a list
        return [value] * count
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
        entrypoint=checked_name("entrypoint", entrypoint),
        payload=_payload(payload),
        priority=_priority(priority),
        delay=delay,
        execute_at=execute_at,
        dedupe_key=None if dedupe_key is None else _key(dedupe_key),
        headers=None if headers is None else _headers(headers),
    )


def checked_text(name: str, value: object) -> str:
    """Return a text that PostgreSQL can store.

    Raises:
        TypeError: it is no string.
        ValueError: it holds a NUL byte or a lone surrogate.
    """
    return _encoded(name, value)[0]


def checked_name(name: str, value: object) -> str:
    """Return a text that PostgreSQL can store and have in an index.

    Raises:
        TypeError: it is no string.
        ValueError: as `checked_text`, or it is longer than `MAX_NAME_BYTES` in UTF-8.
    """
    text, encoded = _encoded(name, value)
    if len(encoded) > MAX_NAME_BYTES:
        raise ValueError(
            f"{name} has {len(encoded)} bytes; PostgreSQL can index texts of up to "
            f"{MAX_NAME_BYTES} bytes. Use a hash of it."
        )
    return text


def _encoded(name: str, value: object) -> tuple[str, bytes]:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a string, got {type(value).__name__}")
    if "\x00" in value:
        raise ValueError(f"{name} {value!r} holds a NUL byte, which PostgreSQL cannot store")
    try:
        return value, value.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{name} {value!r} holds a lone surrogate, which is no text") from exc


def _payload(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(
            f"payload is bytes or None, got {type(value).__name__}; encode it, "
            "for example with json.dumps(...).encode()"
        )
    # Looked at before anything is copied.
    view = cast("memoryview[int]", value) if isinstance(value, memoryview) else None
    size = len(cast("bytes", value)) if view is None else view.nbytes
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"payload has {size} bytes; a job carries at most {MAX_PAYLOAD_BYTES}. "
            "Store it elsewhere and enqueue its address."
        )
    return bytes(cast("bytes", value))


def _key(value: object) -> str:
    return checked_name("dedupe_key", value)


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
        return _delay(value, value), None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return _delay(timedelta(seconds=value), value), None
        except (ValueError, OverflowError) as exc:
            raise ValueError(f"execute_after {value!r} is no number of seconds: {exc}") from exc
    if not isinstance(value, datetime):
        raise TypeError(
            f"execute_after is a timedelta, seconds or an aware datetime, got {value!r}"
        )
    return None, _point_in_time(value)


def _delay(delay: timedelta, given: object) -> timedelta:
    if delay < timedelta(0):
        raise ValueError(
            f"a delay must not be negative, execute_after is {given!r}; leave it out for at once"
        )
    if delay > MAX_DELAY:
        raise ValueError(f"a delay is at most {MAX_DELAY.days} days, execute_after is {given!r}")
    return delay


def _point_in_time(value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"execute_after {value.isoformat()} has no time zone; "
            "use an aware datetime, for example datetime.now(UTC) + timedelta(hours=1)"
        )
    try:
        point = value.astimezone(UTC)
    except OverflowError:
        point = None
    if point is None or point.year not in _YEARS:
        raise ValueError(
            f"execute_after {value.isoformat()} is out of the years {_YEARS[0]} to {_YEARS[-1]}"
        )
    return point


def _headers(value: object) -> str:
    if not isinstance(value, Mapping):
        raise TypeError(f"headers is a mapping such as a dict, or None, got {type(value).__name__}")
    _check_headers(cast("object", value), 0)
    try:
        text = json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"headers cannot be stored as JSON: {exc}") from exc
    if len(text) > MAX_HEADERS_BYTES:
        raise ValueError(
            f"headers have {len(text)} bytes as JSON; at most {MAX_HEADERS_BYTES} can be stored. "
            "Large data belongs into the payload."
        )
    return text


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _check_headers(value: object, depth: int) -> None:
    if isinstance(value, str):
        checked_text("a text in headers", value)
        return
    if not isinstance(value, Mapping | list | tuple):
        return
    if depth == MAX_HEADERS_DEPTH:
        raise ValueError(f"headers nest deeper than {MAX_HEADERS_DEPTH} levels, or into themselves")
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise TypeError(f"headers have text keys as JSON objects do, got {key!r}")
            checked_text("a key in headers", key)
            _check_headers(item, depth + 1)
    else:
        for item in cast("Sequence[object]", value):
            _check_headers(item, depth + 1)
