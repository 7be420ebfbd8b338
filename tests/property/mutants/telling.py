"""Faults in what jobs lead to, in who is told of it, and in what is asked for at a bad moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from pgq_trio.client import watching
from pgq_trio.model.outcomes import retry_of
from pgq_trio.store import memory_jobs
from pgq_trio.worker import dispatcher, endings, leases
from tests.property.mutants import mutant, replace

_RETRIES = "test_outcomes.py::test_retries_and_failures"
_TOLD = "test_outcomes.py::test_each_end_is_told"
_SHUTDOWN = "test_sweeps.py::test_a_shutdown_at_every_step"
_CANCELLED = "test_sweeps.py::test_a_job_cancelled_at_every_step"


@mutant("of a group of retries the first one counts", _RETRIES)
def first_retry_counts() -> None:
    def first(error: BaseException) -> Any:
        found = retry_of(error)
        while found is not None and isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return error if found is not None else None

    replace(endings, "retry_of", first)


@mutant("a retry in a group with other errors counts", _RETRIES)
def any_retry_counts() -> None:
    def anywhere(error: BaseException) -> Any:
        if isinstance(error, BaseExceptionGroup):
            found = [retry for inner in error.exceptions if (retry := anywhere(inner)) is not None]
            return max(found, key=lambda retry: retry.delay, default=None)
        return retry_of(error)

    replace(endings, "retry_of", anywhere)


@mutant("a requeued job keeps its attempts", _RETRIES)
def requeued_with_attempts() -> None:
    original = memory_jobs.MemoryJobs.requeue

    async def requeue(self: Any, ids: Collection[int]) -> Any:
        before = {key: row.attempts for key, row in self._table.rows.items()}
        requeued = await original(self, ids)
        for job_id in requeued:
            self._table.rows[job_id].attempts = before[job_id]
        return requeued

    replace(memory_jobs.MemoryJobs, "requeue", requeue)


@mutant("watchers look only when they hear something", _TOLD)
def watchers_trust_their_ears() -> None:
    original = watching.Watch.__init__

    def init(self: Any, *args: Any, refresh_interval: float, **options: Any) -> None:
        original(self, *args, refresh_interval=math.inf, **options)

    replace(watching.Watch, "__init__", init)


@mutant("what a claim brings after the stop is forgotten", _SHUTDOWN)
def claimed_while_stopping() -> None:
    original = dispatcher.Dispatcher.add

    def add(self: Any, claimed: list[Any], *args: Any) -> None:
        if not self._closed:
            original(self, claimed, *args)
            return
        for lease in claimed:
            self._leases.drop(lease)

    replace(dispatcher.Dispatcher, "add", add)


@mutant("a job interrupted by a shutdown counts as failed", _SHUTDOWN)
def interrupted_is_failed() -> None:
    replace(endings, "INTERRUPTIONS", frozenset())


@mutant(
    "who cancels a job before its claim is known is not heard",
    "test_queue.py::test_cancelling_one_job",
)
def early_cancellation() -> None:
    @contextmanager
    def claiming(_self: object) -> Iterator[None]:
        yield

    replace(leases.Leases, "claiming", claiming)


@mutant("who cancels a job that waits or runs is not heard", _CANCELLED)
def late_cancellation() -> None:
    replace(leases.Leases, "cancel_for_user", lambda _self, _job_id: None)


@mutant("the row of a cancelled job stays until its handler has ended", _CANCELLED)
def cancelled_row_stays() -> None:
    original: Callable[..., Any] = memory_jobs.MemoryJobs._remove

    def remove(self: Any, rows: Any, status: Any, now: Any) -> None:
        for row in rows:
            if row.status == "picked" and status == "canceled":
                self._state.write_log(row, status, now)
            else:
                original(self, [row], status, now)

    replace(memory_jobs.MemoryJobs, "_remove", remove)
