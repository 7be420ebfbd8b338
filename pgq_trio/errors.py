"""Every error this package raises, one tree under `PgqError`; nothing here does I/O.

Each message is built in the constructor from facts and says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

__all__ = [
    "BackendNotSupported",
    "ConnectionLost",
    "DuplicateJobError",
    "JobTimeout",
    "LeaseLost",
    "ListenerLost",
    "PgqError",
    "RegistrationError",
    "ResourceError",
    "RetryRequested",
    "SchemaDrift",
    "SchemaMissing",
    "StoreError",
    "UnknownJob",
    "WorkerLost",
    "WorkerProcessDied",
]


class PgqError(Exception):
    """Base of all errors of this package.

    They can be pickled, also where the constructor takes other arguments than the message.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[PgqError], args: tuple[object, ...]) -> PgqError:
    return kind.__new__(kind, *args)


class RetryRequested(PgqError):  # noqa: N818 - PgQueuer's name for it
    """Raised by a handler to have its job queued again after a delay.

    Args:
        delay: how long to wait before the next attempt, a `timedelta` or seconds.
        reason: a human-readable explanation, kept in the log row of the retry.

    Raises:
        TypeError: the delay is neither a `timedelta` nor a number.
        ValueError: the delay is negative or not a number.
    """

    def __init__(self, delay: timedelta | float = timedelta(0), reason: str | None = None) -> None:
        given = cast("object", delay)
        if not isinstance(given, timedelta | int | float) or isinstance(given, bool):
            raise TypeError(f"delay is a timedelta or seconds, got {given!r}")
        try:
            self.delay: timedelta = (
                delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
            )
        except OverflowError as exc:
            raise ValueError(
                f"the delay of a retry is longer than any calendar: {delay!r}"
            ) from exc
        except ValueError as exc:
            raise ValueError(f"the delay of a retry is no number of seconds: {delay!r}") from exc
        if self.delay < timedelta(0):
            raise ValueError(f"the delay of a retry must not be negative, got {self.delay}")
        self.reason = reason
        super().__init__(reason or f"retry requested in {self.delay}")


class DuplicateJobError(PgqError):
    """You get it from `enqueue` when a job with the same dedupe key is queued or running.

    Also when a batch holds a key twice. `dedupe_key` holds all keys of the refused call, of which
    the message names a few; nothing of that call was written.
    """

    def __init__(self, dedupe_key: Sequence[str | None]) -> None:
        self.dedupe_key: list[str | None] = list(dedupe_key)
        keys = [key for key in self.dedupe_key if key is not None]
        what = f"a job with the dedupe key {_named(keys)} is already queued or running"
        if len(keys) > 1:
            which = "one of the dedupe keys" if len(set(keys)) > 1 else "the dedupe key"
            what = f"{which} {_named(keys)} is taken, or given twice"
        super().__init__(
            f"{what}; nothing was enqueued. Pass on_conflict='skip' to leave such jobs out."
        )


def _named(keys: Sequence[str]) -> str:
    """Name the first few of the keys, each at no great length, and count the rest."""
    distinct = list(dict.fromkeys(keys))
    shown = [repr(key if len(key) <= 100 else f"{key[:100]}...") for key in distinct[:5]]
    more = len(distinct) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


class JobTimeout(PgqError):  # noqa: N818
    """Why a job ended that ran longer than its entrypoint's `timeout` allows."""

    def __init__(self, entrypoint: str, timeout: float) -> None:
        self.entrypoint = entrypoint
        self.timeout = timeout
        super().__init__(
            f"the job ran longer than the timeout of {timeout:g} s of entrypoint {entrypoint!r}"
        )


class WorkerProcessDied(PgqError):  # noqa: N818
    """The process that ran a job's handler (`ProcessExecutor`) died, or could not be started."""


class WorkerLost(PgqError):  # noqa: N818
    """Why a job is held whose last runs all ended without an outcome.

    No handler raises it: its name stands in the log row of such a job.
    """

    def __init__(self, lost_runs: int, max_attempts: int) -> None:
        self.lost_runs = lost_runs
        self.max_attempts = max_attempts
        super().__init__(
            f"worker lost: the last {lost_runs} runs of this job in a row ended without an "
            f"outcome, because its worker died or fell silent; max_attempts is {max_attempts}. "
            "Find out what kills the workers, then requeue the job or cancel it."
        )


class LeaseLost(PgqError):  # noqa: N818
    """The claim on a job is no longer ours: another worker took it over, or its row is gone."""

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        super().__init__(
            f"the lease on job {job_id} is lost: its row was taken over, cancelled or deleted, "
            "so this worker's outcome was not written"
        )


class UnknownJob(PgqError, KeyError):  # noqa: N818
    """You get it when you ask for a job that does not run here, or that nobody knows."""

    def __init__(self, job_id: int, hint: str = "it does not run in this process now") -> None:
        self.job_id = job_id
        self.message: str = f"job {job_id} is unknown: {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return self.message


class StoreError(PgqError):
    """The database refused a statement; the driver's own error is the `__cause__`."""

    #: Whether the same statement may succeed when it is sent again (deadlock, serialization).
    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        self.retryable = retryable
        super().__init__(message)


class ConnectionLost(StoreError):  # noqa: N818
    """The connection to PostgreSQL broke or could not be made; the statement may be repeated.

    Not `retryable` where nobody can make it again: the driver has no other than a closed one.
    """

    def __init__(self, detail: str, *, retryable: bool = True) -> None:
        super().__init__(f"the connection to PostgreSQL is lost: {detail}", retryable=retryable)


class ListenerLost(PgqError):  # noqa: N818
    """The connection that listens for notifications broke."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"the LISTEN connection is lost: {detail}")


class SchemaMissing(PgqError):  # noqa: N818
    """Tables, types or triggers are missing in the database; `missing` names them."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        self.missing: list[str] = list(missing)
        what = ", ".join(self.missing) or "the tables of the queue"
        super().__init__(
            f"missing in the database: {what}. Create them with `pgq-trio install` "
            "(`await pgq.queries.install()`); where tables of an older release are, "
            "`pgq-trio upgrade` adds what they lack."
        )


class SchemaDrift(PgqError):  # noqa: N818
    """The database holds an object that differs from what this release needs."""

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences: list[str] = list(differences)
        super().__init__(
            "the database differs from what this release needs: "
            + "; ".join(self.differences)
            + ". `pgq-trio verify` names what mends it."
        )


class RegistrationError(PgqError, ValueError):
    """An entrypoint or a schedule was registered with arguments that cannot work."""


class ResourceError(PgqError):
    """Resources were given, entered, looked up or closed in a way that cannot work."""


class BackendNotSupported(PgqError):  # noqa: N818
    """The driver cannot run on the event loop in use, such as asyncpg on Trio."""
