"""The record of an exception as the log stores it: always storable, whatever a handler raised."""

from __future__ import annotations

import json
import re
import traceback as tb
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, cast

from pgq_trio.types import JobId

#: A traceback longer than this many characters is cut in the middle: a recursion error with a
#: megabyte of frames must not make the log unreadable.
MAX_TEXT = 64_000

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

_SURROGATES = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text as PostgreSQL's jsonb can store it.

    NUL becomes the visible symbol U+2400, lone surrogates the replacement character U+FFFD, and
    what is longer than `MAX_TEXT` loses its middle.
    """
    text = _SURROGATES.sub("\ufffd", text.replace("\x00", "\u2400"))
    if len(text) > MAX_TEXT:
        half = MAX_TEXT // 2
        text = f"{text[:half]}\n… {len(text) - MAX_TEXT} characters left out …\n{text[-half:]}"
    return text


def _storable_value(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {storable(str(k)): _storable_value(v) for k, v in items}
    if isinstance(value, list | tuple):
        return [_storable_value(item) for item in cast("Sequence[object]", value)]
    return storable(str(value))


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as inner:  # noqa: BLE001 - a user's __str__ may do anything
        return f"<str() of this {type(exc).__name__} raised {type(inner).__name__}>"


def _format(exc: BaseException) -> str:
    try:
        return "".join(tb.format_exception(exc))
    except Exception:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        return f"{type(exc).__name__}: {_text_of(exc)}\n(the traceback could not be formatted)"


def _as_id(value: object, default: JobId) -> JobId:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return default
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _as_time(value: object, default: datetime) -> datetime:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else default
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except ValueError:
        return default


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"<a {type(value).__name__} that cannot be shown>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracebackRecord:
    """Why an attempt did not succeed; the fields are PgQueuer's."""

    job_id: JobId
    timestamp: datetime
    exception_type: str
    exception_message: str
    traceback: str
    additional_context: dict[str, object] | None = None

    @classmethod
    def from_exception(
        cls,
        exc: BaseException,
        *,
        job_id: JobId,
        timestamp: datetime,
        additional_context: Mapping[str, object] | None = None,
    ) -> Self:
        """Record an exception; never raises, whatever its text holds or its `__str__` does."""
        context = None
        if additional_context is not None:
            context = {storable(k): _storable_value(v) for k, v in additional_context.items()}
        return cls(
            job_id=job_id,
            timestamp=timestamp,
            exception_type=storable(type(exc).__name__),
            exception_message=storable(_text_of(exc)),
            traceback=storable(_format(exc)),
            additional_context=context,
        )

    @classmethod
    def from_json(
        cls, value: object, *, job_id: JobId = 0, timestamp: datetime = _LONG_AGO
    ) -> Self:
        """Read a record back from a log row, PgQueuer's or ours; never raises.

        Anybody who writes SQL may have logged something else: what fits a field is kept, and what
        is no record at all becomes the text of the traceback.

        Args:
            value: the decoded JSON.
            job_id: for a record that names none.
            timestamp: for a record that has none.
        """
        if not isinstance(value, Mapping):
            value = {"traceback": value}
        fields = cast("Mapping[str, object]", value)
        context = fields.get("additional_context")
        return cls(
            job_id=_as_id(fields.get("job_id"), job_id),
            timestamp=_as_time(fields.get("timestamp"), timestamp),
            exception_type=_as_text(fields.get("exception_type")),
            exception_message=_as_text(fields.get("exception_message")),
            traceback=_as_text(fields.get("traceback")),
            additional_context=dict(cast("Mapping[str, object]", context))
            if context and isinstance(context, Mapping)
            else None,
        )

    def to_json(self) -> str:
        """Return the record as JSON text that jsonb accepts."""
        return json.dumps(
            {
                "job_id": self.job_id,
                "timestamp": self.timestamp.isoformat(),
                "exception_type": self.exception_type,
                "exception_message": self.exception_message,
                "traceback": self.traceback,
                "additional_context": self.additional_context,
            }
        )
