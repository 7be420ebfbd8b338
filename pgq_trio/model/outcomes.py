"""What an attempt led to, decided from what the handler did and why its scope was cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias, cast

from pgq_trio.errors import RetryRequested
from pgq_trio.types import JobId

#: The states a finished attempt can write. "retry" queues the job again and counts an attempt.
OutcomeKind: TypeAlias = Literal["successful", "exception", "failed", "canceled", "retry"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt led to; `traceback` is the JSON text of a `TracebackRecord`."""

    kind: OutcomeKind
    traceback: str | None = None
    delay: timedelta = timedelta(0)


SUCCESSFUL = Outcome("successful")
CANCELED = Outcome("canceled")


class Claim(NamedTuple):
    """The fence of one claim: the job, and `updated` as the claim set it.

    Together with the worker's id it proves that a write still owns the row; a heartbeat leaves
    `updated` alone, so the proof holds as long as nobody else claimed the row.
    """

    job_id: JobId
    updated: datetime


class Finished(NamedTuple):
    """One outcome on its way to the store."""

    claim: Claim
    outcome: Outcome


def retry_of(exc: BaseException) -> RetryRequested | None:
    """Return the retry an exception asks for, or None.

    That is the exception itself, or, for a group made only of such requests, the one with the
    longest delay.
    """
    if isinstance(exc, RetryRequested):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        found = [retry_of(inner) for inner in group.exceptions]
        retries = [retry for retry in found if retry is not None]
        if len(retries) == len(found):
            return max(retries, key=lambda retry: retry.delay)
    return None
