"""The record of an exception as the log stores it: always storable, whatever a handler raised."""

from __future__ import annotations

import json
import re
import traceback as tb
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self, cast

from pgq_trio.types import JobId

#: A traceback longer than this many characters is cut in the middle: a recursion error with a
#: megabyte of frames must not make the log unreadable.
MAX_TEXT = 64_000

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
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read a record back from a log row, PgQueuer's or ours."""
        context = value.get("additional_context")
        return cls(
            job_id=int(str(value["job_id"])),
            timestamp=datetime.fromisoformat(str(value["timestamp"])),
            exception_type=str(value["exception_type"]),
            exception_message=str(value["exception_message"]),
            traceback=str(value["traceback"]),
            additional_context=dict(cast("Mapping[str, object]", context)) if context else None,
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
