"""Running a queue until nothing is due, and what became of its jobs; it knows no test runner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, Unpack

from pgq_trio.app import PgQueuer
from pgq_trio.models import Log
from pgq_trio.qm import QueueManager
from pgq_trio.types import FINAL_STATES, JobId
from pgq_trio.worker.options import RunArguments

__all__ = ["JobFailed", "Outcomes", "drain"]

#: States in which a job's handler has raised and is not called again by itself.
_FAILURES = frozenset({"exception", "failed"})


class JobFailed(AssertionError):  # noqa: N818 - a failed check, named as `Deadlock` is
    """A job's handler raised; the message ends with its traceback.

    Attributes:
        log: the log row of that end.
    """

    def __init__(self, log: Log) -> None:
        self.log: Log = log
        super().__init__(_failure(log))


class Outcomes(dict[JobId, Log]):
    """The jobs that ended, each with the log row of its end (`status`, `traceback`, ...).

    Attributes:
        retried: the jobs that were queued again and did not end, each with the row of its last
            retry; its `traceback` says why.
    """

    def __init__(self, ended: Mapping[JobId, Log], retried: Mapping[JobId, Log]) -> None:
        super().__init__(ended)
        self.retried: dict[JobId, Log] = dict(retried)

    @property
    def failures(self) -> list[Log]:
        """The ends of jobs whose handlers raised, in the order in which they ended."""
        return [log for log in self.values() if log.status in _FAILURES]

    def check(self) -> Self:
        """Return this, or raise `JobFailed` for the first job whose handler raised."""
        for log in self.failures:
            raise JobFailed(log)
        return self

    def __missing__(self, job_id: JobId) -> Log:
        if job_id in self.retried:
            raise KeyError(
                f"job {job_id} did not end: it is queued again (`retried` says why) and runs when "
                "its delay is over"
            )
        raise KeyError(
            f"job {job_id} did not end in this run: it is not due yet, nobody here serves its "
            f"entrypoint, or it ended before; these did: {', '.join(map(str, self)) or 'none'}"
        )


async def drain(app: PgQueuer | QueueManager, **options: Unpack[RunArguments]) -> Outcomes:
    """Run the jobs that are due, and those that they enqueue, until none is left.

    Jobs deferred into the future, names that nobody registered here and schedules stay where they
    are. A job that fails is data: `drain(...)` returns its traceback, `Outcomes.check()` raises.

    Args:
        app: the application; it must not be running.
        **options: those of `PgQueuer.run`, without `mode`; signals are left alone by default.

    Returns:
        what became of each job that ended meanwhile, also in another worker.

    Raises:
        TypeError: `mode` was given.
        As `PgQueuer.run`.

    Cancelled, it cancels all handlers at once and queues their jobs again.
    """
    if "mode" in options:
        raise TypeError("drain() has a mode of its own; to run on, call run() in a task group")
    options = {"handle_signals": False, **options, "mode": "drain"}
    before = {_key(log) for log in await app.queries.queue_log()}
    await app.run(**options)
    last: dict[JobId, Log] = {}
    for log in await app.queries.queue_log():
        if _key(log) not in before:
            last.pop(log.job_id, None)  # what ended last stands last
            last[log.job_id] = log
    ended = {key: log for key, log in last.items() if _is_end(log)}
    retried = {
        key: log
        for key, log in last.items()
        if log.status == "queued" and log.traceback is not None
    }
    return Outcomes(ended, retried)


def _is_end(log: Log) -> bool:
    return log.status in FINAL_STATES or log.status in _FAILURES


def _key(log: Log) -> tuple[object, ...]:
    return log.job_id, log.created, log.status


def _failure(log: Log) -> str:
    held = ", and it is held" if log.status == "failed" else ""
    text = f"job {log.job_id} of {log.entrypoint!r} failed{held}"
    if log.traceback is None:
        return text
    return (
        f"{text}: {log.traceback.exception_type}: {log.traceback.exception_message}\n\n"
        f"{log.traceback.traceback.rstrip()}"
    )
