"""What the end of a handler means: an outcome, or an interruption that is none. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pgq_trio.errors import JobTimeout, WorkerLost
from pgq_trio.executors import EntrypointExecutorParameters
from pgq_trio.model.outcomes import CANCELED, SUCCESSFUL, Outcome, retry_of
from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.models import Job
from pgq_trio.types import CancelReason
from pgq_trio.worker.leases import Lease

#: What is later than this is as good as never, and past the calendars of Python and PostgreSQL.
LONGEST_DELAY = timedelta(days=36_525)

#: Reasons that end a run of a job without an outcome: somebody else is to run it.
INTERRUPTIONS = frozenset({CancelReason.shutdown, CancelReason.lease_lost})


def outcome_of(
    lease: Lease,
    parameters: EntrypointExecutorParameters,
    error: Exception | None,
    *,
    cancelled: bool,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[Outcome | None, Exception | None]:
    """Decide what a run of a handler led to.

    Args:
        lease: the job, with the reason its scope was cancelled for, if it was.
        parameters: how its entrypoint was registered.
        error: what the handler raised.
        cancelled: whether the job's scope caught its own cancellation.
        now: the time for the traceback record.

    Returns:
        the outcome, None for an interruption; and the error to report. A handler that returned
        in spite of a cancellation has done its work: successful.
    """
    if error is None and not cancelled:
        return SUCCESSFUL, None
    if lease.reason in INTERRUPTIONS:
        return None, error
    if lease.reason is CancelReason.timeout:
        timeout = JobTimeout(lease.job.entrypoint, parameters.timeout_seconds or 0.0)
        timeout.__cause__ = error
        error = timeout
    elif lease.reason is CancelReason.user or error is None:
        # Without a reason the handler cancelled `ctx.cancellation` itself.
        return CANCELED, error
    return _failure(lease, parameters, error, now), error


def held_outcome(
    job: Job, error: WorkerLost, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Outcome:
    """Return the outcome of a job that is held because its last runs all lost their workers."""
    context: dict[str, object] = {
        "entrypoint": job.entrypoint,
        "queue_manager_id": str(job.queue_manager_id),
        "lost_runs": error.lost_runs,
    }
    record = TracebackRecord.from_exception(
        error, job_id=job.id, timestamp=now(), additional_context=context
    )
    return Outcome("failed", record.to_json())


def _failure(
    lease: Lease,
    parameters: EntrypointExecutorParameters,
    error: Exception,
    now: Callable[[], datetime],
) -> Outcome:
    job = lease.job
    delay, reason = _retry(lease, parameters, error)
    context: dict[str, object] = {
        "entrypoint": job.entrypoint,
        "queue_manager_id": str(job.queue_manager_id),
    }
    if delay is not None:
        context |= {"attempt": job.attempts, "retry_delay": str(delay), "reason": reason}
    record = TracebackRecord.from_exception(
        error, job_id=job.id, timestamp=now(), additional_context=context
    ).to_json()
    if delay is not None:
        return Outcome("retry", record, delay)
    return Outcome("failed" if parameters.on_failure == "hold" else "exception", record)


def _retry(
    lease: Lease, parameters: EntrypointExecutorParameters, error: Exception
) -> tuple[timedelta | None, str | None]:
    retry = retry_of(error)
    if retry is not None:
        return min(retry.delay, LONGEST_DELAY), retry.reason
    if parameters.retry is None:
        return None, None
    try:
        delay = parameters.retry.next_delay(lease.job, error)
        if delay is None:
            return None, None
        return _delay_of(delay), type(error).__name__
    except Exception as exc:  # noqa: BLE001 - a policy is the user's code; the job's record has it
        error.add_note(f"The retry policy failed, so there is no retry: {exc!r}")
        return None, None


def _delay_of(seconds: float) -> timedelta:
    if math.isnan(seconds):
        raise ValueError("the delay is not a number")
    return timedelta(seconds=min(max(0.0, seconds), LONGEST_DELAY.total_seconds()))
