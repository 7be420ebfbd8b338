"""Watching jobs for their ends: one LISTEN and few looks for any number of waiters.

It knows how to learn that a job has ended, not who opens and closes it. A notification is only a
reason to look; what counts is what the tables say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from heapq import heappop, heappush
from types import TracebackType
from typing import cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from pgq_trio.abc import Backend
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import ConnectionLost, PgqError, StoreError, UnknownJob
from pgq_trio.listening import Listener
from pgq_trio.model.states import is_final
from pgq_trio.model.wire import (
    INTEREST_REPEATED,
    CancellationRequested,
    Event,
    Ignored,
    JobsEnded,
    TableChanged,
    WorkerListens,
    outcomes_wanted_event,
)
from pgq_trio.types import JobId, JobStatus

logger: logging.Logger = logging.getLogger("pgq_trio.client")

#: Seconds after a new waiter at which its job is looked at once more: the announcement that
#: somebody waits takes a moment to reach the workers, and a job may end in that moment.
EARLY_LOOKS = (0.05, 0.25, 1.0)

#: Ids in one statement.
MAX_IDS = 20_000

#: Seconds without an answer after which a statement counts as lost.
ANSWER_LIMIT = 10.0

_UNKNOWN = (
    "neither the queue nor its log has it. Either there never was such a job, or its log rows are "
    "gone already, or the transaction that enqueues it is not committed yet: wait after the commit"
)
_VANISHED = (
    "it was in the queue and is gone, and the log does not say how: it was truncated or deleted "
    "by hand while only outcomes were logged, or its log rows are gone already"
)


class _Waiter:
    """One task that waits for one job.

    Attributes:
        since: how many looks had begun before it came; these may not know what it knows.
        seen: whether a look has found the job.
    """

    __slots__ = ("_done", "_error", "_status", "_traceback", "seen", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.seen = False
        self._done = anyio.Event()
        self._status: JobStatus | None = None
        self._error: Exception | None = None
        self._traceback: TracebackType | None = None

    def end(self, status: JobStatus) -> None:
        """Have the task go on with the state in which its job ended."""
        self._status = status
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Have the task go on with an error."""
        self._error = error
        self._traceback = error.__traceback__
        self._done.set()

    async def result(self) -> JobStatus:
        await self._done.wait()
        if self._error is not None:
            # Many tasks raise the same one: none adds to the traceback of another.
            raise self._error.with_traceback(self._traceback)
        return cast("JobStatus", self._status)


class Watch:
    """Everything that is known of one watcher's jobs, and the services that learn it.

    Args:
        backend: where the jobs are.
        refresh_interval: the longest time between two looks at all of them, in seconds.
        debounce: the shortest time between two looks, in seconds.
    """

    def __init__(self, backend: Backend, *, refresh_interval: float, debounce: float) -> None:
        self.failure: Exception | None = None
        self.ignored: int = 0
        self._jobs = backend.jobs
        self._notifier = backend.notifier
        self._schedules_table = backend.settings.schedules_table
        self._refresh_interval = refresh_interval
        self._debounce = debounce
        self._closed = False
        self._waiters: dict[JobId, set[_Waiter]] = {}
        self._looks = 0
        self._wakeup = Wakeup()
        self._outage = Backoff()
        #: What to look at as soon as may be, and later: at a time, an id, or None for all.
        self._soon: set[JobId] = set()
        self._later: list[tuple[float, int, JobId | None]] = []
        self._serial = 0
        self._refresh_at = anyio.current_time() + refresh_interval
        self._announce_at = -math.inf
        self._not_before = -math.inf

    async def wait_for(self, job_id: JobId) -> JobStatus:
        """Wait until a job has ended or is held; see `CompletionWatcher.wait_for`."""
        if self.failure is not None or self._closed:
            await anyio.lowlevel.checkpoint()
            raise self.failure or _closed(job_id)
        waiter = _Waiter(self._looks)
        self._waiters.setdefault(job_id, set()).add(waiter)
        self._expect(job_id)
        try:
            return await waiter.result()
        finally:
            self._forget(job_id, waiter)

    def fail(self, error: Exception) -> None:
        """Give everybody who waits this error: nothing can be learned any more."""
        if self.failure is None:
            self.failure = error
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.fail(self.failure)
        self._waiters.clear()

    def close(self) -> None:
        """Tell those who still wait, in tasks of others, that they wait in vain."""
        self._closed = True
        for job_id, waiters in self._waiters.items():
            for waiter in waiters:
                waiter.fail(_closed(job_id))
        self._waiters.clear()

    async def listen(  # noqa: ASYNC114, ASYNC128 - the listener says when
        self, *, task_status: TaskStatus[None]
    ) -> None:
        """Hear which jobs have ended, until cancelled; an error that lasts is everybody's."""
        listener = Listener(
            self._notifier,
            channels=("work", "outcomes"),
            on_event=self.take,
            on_connected=self._on_connected,
            on_problem=_note,
        )
        try:
            await listener.run(task_status=task_status)
        except Exception as exc:
            self.fail(exc)
            raise

    async def look(self) -> None:
        """Look when there is a reason to, until cancelled; an error that lasts is everybody's."""
        try:
            while True:
                # Cleared before looking: a reason that comes meanwhile is one for another look.
                self._wakeup.clear()
                left = self._next() - anyio.current_time()
                if left > 0:
                    await self._wakeup.wait(None if left == math.inf else left)
                else:
                    await self._act()
        except Exception as exc:
            self.fail(exc)
            raise

    def take(self, event: Event) -> None:
        """Take a notification: a reason to look at some jobs, at all, or at none."""
        match event:
            case JobsEnded(ids) | CancellationRequested(ids):
                self._soon.update(self._waiters.keys() & set(ids))
            case TableChanged(operation, table):
                if operation in {"delete", "truncate"} and table != self._schedules_table:
                    self._soon.update(self._waiters)
            case WorkerListens():
                self._expect(None)
            case Ignored(problem):
                self.ignored += problem is not None
            case _:
                pass
        if self._soon:
            self._wakeup.set()

    def _on_connected(self) -> None:
        self._not_before = -math.inf  # there is a server
        self._outage.reset()
        self._expect(None)

    def _expect(self, job_id: JobId | None) -> None:
        """Look at a job now and a few times soon; None: at all, telling workers of it anew."""
        if not self._waiters:
            return
        if job_id is None:
            self._soon.update(self._waiters)
            self._announce_at = -math.inf
        else:
            self._soon.add(job_id)
        now = anyio.current_time()
        for delay in EARLY_LOOKS:
            self._serial += 1
            heappush(self._later, (now + delay, self._serial, job_id))
        self._wakeup.set()

    def _forget(self, job_id: JobId, waiter: _Waiter) -> None:
        waiters = self._waiters.get(job_id)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[job_id]
        if not self._waiters:
            self._soon.clear()
            self._later.clear()

    def _next(self) -> float:
        """Return when there is something to do, on the event loop's clock."""
        if not self._waiters:
            return math.inf
        due = -math.inf
        if not self._soon:
            later = self._later[0][0] if self._later else math.inf
            due = min(self._refresh_at, self._announce_at, later)
        return max(due, self._not_before)

    async def _act(self) -> None:
        """Do what is due now, and say when the next may come."""
        try:
            if anyio.current_time() >= self._announce_at:
                await self._announce()
            await self._look_at(self._due())
        except StoreError as exc:
            if not exc.retryable:
                raise
            _note(str(exc))
            self._not_before = anyio.current_time() + self._outage.next()
        else:
            self._outage.reset()
            self._not_before = anyio.current_time() + self._debounce

    async def _announce(self) -> None:
        # Set before it is sent: a worker that begins to listen meanwhile asks for another.
        self._announce_at = anyio.current_time() + INTEREST_REPEATED
        try:
            with anyio.move_on_after(ANSWER_LIMIT) as scope:
                await self._notifier.notify("interest", [outcomes_wanted_event()])
            _check(scope)
        except StoreError:
            self._announce_at = -math.inf
            raise

    def _due(self) -> list[JobId]:
        """Return the jobs to look at now."""
        now = anyio.current_time()
        if now >= self._refresh_at:
            self._soon.update(self._waiters)
        while self._later and self._later[0][0] <= now:
            job_id = heappop(self._later)[2]
            self._soon.update(self._waiters if job_id is None else [job_id])
        due = sorted(self._soon & self._waiters.keys())
        self._soon.clear()
        if len(due) == len(self._waiters):
            self._refresh_at = now + self._refresh_interval
        return due

    async def _look_at(self, ids: Sequence[JobId]) -> None:
        for start in range(0, len(ids), MAX_IDS):
            chunk = ids[start : start + MAX_IDS]
            self._looks += 1
            look = self._looks
            try:
                with anyio.move_on_after(ANSWER_LIMIT) as scope:
                    known = await self._jobs.job_status(chunk)
                    for job_id in chunk:
                        self._settle(job_id, known.get(job_id), look)
                _check(scope)
            except StoreError:
                self._soon.update(ids[start:])
                raise

    def _settle(self, job_id: JobId, status: JobStatus | None, look: int) -> None:
        """Take what a look has found, for those who waited when it began."""
        for waiter in [x for x in self._waiters.get(job_id, ()) if x.since < look]:
            if status is None:
                waiter.fail(UnknownJob(job_id, _VANISHED if waiter.seen else _UNKNOWN))
            elif is_final(status) or status == "failed":
                waiter.end(status)
            else:
                waiter.seen = True
                continue
            self._forget(job_id, waiter)


def _closed(job_id: JobId) -> PgqError:
    return PgqError(
        f"the CompletionWatcher was left while job {job_id} was waited for, or before; the job "
        "itself goes on. Wait inside of its `async with` block."
    )


def _check(scope: anyio.CancelScope) -> None:
    if scope.cancelled_caught:
        raise ConnectionLost(f"the server gave no answer within {ANSWER_LIMIT:g} s")


def _note(problem: str | None) -> None:
    if problem is not None:
        logger.warning("Waiting for jobs goes on, but is late: %s", problem)
