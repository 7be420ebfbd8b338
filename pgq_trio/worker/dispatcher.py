"""Running claimed jobs, at most so many at once, each inside of its own cancel scope.

A job costs no task of its own: runners take one job after another. A new runner is woken or
started only when a job waits and every awake runner is busy, so jobs that never block are run by
one runner, and jobs that do block get as many as are allowed.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context as ContextVars, copy_context
from functools import partial

import anyio
from anyio.abc import TaskGroup

from pgq_trio.concurrency.errors import as_failure
from pgq_trio.errors import WorkerLost
from pgq_trio.executors import AbstractEntrypointExecutor
from pgq_trio.model.events import Event, JobEnded, JobHeld, JobInterrupted, JobStarted
from pgq_trio.model.outcomes import CANCELED
from pgq_trio.models import Context, Job, ResourceMapping
from pgq_trio.types import CancelReason, JobId
from pgq_trio.worker.endings import held_outcome, outcome_of
from pgq_trio.worker.leases import Lease, Leases
from pgq_trio.worker.outcomes import OutcomeWriter

logger: logging.Logger = logging.getLogger("pgq_trio.worker")

NONE_LOST: Mapping[JobId, int] = {}

#: How long (in seconds) runners may go from job to job without letting other tasks run.
MAX_BUSY_TIME = 0.005


class Dispatcher:
    """Runners and the jobs that wait for one."""

    def __init__(
        self,
        *,
        executors: Mapping[str, AbstractEntrypointExecutor],
        resources: ResourceMapping,
        leases: Leases,
        writer: OutcomeWriter,
        max_concurrent_jobs: int,
        emit: Callable[[Event], None] | None,
    ) -> None:
        self._executors = executors
        self._resources = resources
        self._leases = leases
        self._writer = writer
        self._limit = max_concurrent_jobs
        self._emit = emit
        self._waiting: deque[Lease] = deque()
        self._idle: list[anyio.Event] = []
        self._runners = 0
        self._starting = 0  # runners woken or started that have not run yet
        self._running = 0
        self._tasks: TaskGroup | None = None
        self._closed = False
        self._quiet: anyio.Event | None = None
        self._last_pause = 0.0
        self.on_room: Callable[[], None] = lambda: None
        self._pristine = copy_context()
        leases.when_claimed_again(self.add)

    @property
    def running(self) -> int:
        """How many handlers are running now."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many claimed jobs wait for a runner."""
        return len(self._waiting)

    def open(self, tasks: TaskGroup) -> None:
        """Start runners in this group from now on."""
        self._tasks = tasks
        self._pristine = copy_context()

    def add(self, leases: list[Lease], lost_runs: Mapping[JobId, int] = NONE_LOST) -> None:
        """Run these jobs as soon as there is room; after `close` they go back to the queue.

        Those of which more runs in a row were lost than their entrypoint allows are held instead.
        """
        if lost_runs:
            leases = [lease for lease in leases if not self._is_held(lease, lost_runs)]
        limited = [lease for lease in leases if self._is_limited(lease)]
        if limited:
            # Their seats are held by whoever has claimed them: they must not wait behind others.
            self._waiting.extendleft(reversed(limited))
            self._waiting.extend(lease for lease in leases if not self._is_limited(lease))
        else:
            self._waiting.extend(leases)
        if self._closed:
            self._give_back_waiting()
        else:
            self._call_runner()

    def _is_held(self, lease: Lease, lost_runs: Mapping[JobId, int]) -> bool:
        job = lease.job
        lost = lost_runs.get(job.id, 0)
        maximum = self._executors[job.entrypoint].parameters.max_attempts
        if lost < maximum:
            return False
        error = WorkerLost(lost, maximum)
        logger.error("Job %s of %r is held: %s", job.id, job.entrypoint, error)
        self._writer.finish(lease, held_outcome(job, error))
        if self._emit is not None:
            self._emit(JobHeld(job, error))
        return True

    def _is_limited(self, lease: Lease) -> bool:
        return self._executors[lease.job.entrypoint].parameters.concurrency_limit > 0

    def close(self) -> None:
        """Start no more jobs; those that wait go back to the queue. Running ones go on."""
        self._closed = True
        self._give_back_waiting()

    def cancel_running(self) -> None:
        """Cancel every running job because of the shutdown."""
        for lease in self._leases:
            lease.cancel(CancelReason.shutdown)

    async def quiet(self) -> None:
        """Return when no job runs or waits."""
        while self._running or self._waiting:
            self._quiet = anyio.Event()
            await self._quiet.wait()

    def _give_back_waiting(self) -> None:
        while self._waiting:
            self._writer.release(self._waiting.popleft())
        self._say_if_quiet()

    def _say_if_quiet(self) -> None:
        if self._quiet is not None and not self._running and not self._waiting:
            self._quiet.set()

    def _call_runner(self) -> None:
        """Make sure that somebody takes the next waiting job, if there is room for one more."""
        if self._closed or not self._waiting or self._starting or self._running >= self._limit:
            return
        if self._idle:
            self._starting += 1
            self._idle.pop().set()
        elif self._runners < self._limit and self._tasks is not None:
            self._starting += 1
            self._runners += 1
            # From a runner whose context a handler has changed a new one must not inherit it.
            name = f"job runner {self._runners}"
            start = partial(self._tasks.start_soon, self._runner, name=name)
            self._pristine.copy().run(start)

    async def _runner(self) -> None:
        pristine = copy_context()
        try:
            while True:
                self._starting -= 1
                # The wake-up may have come first and a cancellation after it: start nothing then.
                await anyio.lowlevel.checkpoint_if_cancelled()
                while self._waiting and _unchanged(pristine):
                    lease = self._waiting.popleft()
                    if lease.cancelled:  # while it waited
                        self._never_started(lease)
                        continue
                    if await self._run(lease) - self._last_pause > MAX_BUSY_TIME:
                        await anyio.lowlevel.checkpoint()
                        self._last_pause = anyio.current_time()
                if not _unchanged(pristine):
                    return
                called = anyio.Event()
                self._idle.append(called)
                await called.wait()
        except BaseException:
            self.close()
            raise
        finally:
            self._runners -= 1
            self._call_runner()

    def _never_started(self, lease: Lease) -> None:
        if lease.reason is CancelReason.user:
            self._writer.finish(lease, CANCELED)
        else:
            self._interrupted(lease)
        self._say_if_quiet()

    async def _run(self, lease: Lease) -> float:
        """Run one job to its end and return the time."""
        job = lease.job
        executor = self._executors[job.entrypoint]
        timeout = executor.parameters.timeout_seconds
        began = anyio.current_time()
        deadline = None if timeout is None else began + timeout
        error: Exception | None = None
        self._running += 1
        self._call_runner()
        self.on_room()
        if self._emit is not None:
            self._emit(JobStarted(job))
        try:
            scope = (
                anyio.CancelScope() if deadline is None else anyio.CancelScope(deadline=deadline)
            )
            lease.scope = scope
            context = Context(resources=self._resources, cancellation=scope, deadline=deadline)
            lease.context = context
            try:
                with scope:
                    error = await _execute(executor, job, context)
            except Exception as exc:  # noqa: BLE001 - what the scope left of a group it is part of
                error = exc
            # From here to the outcome there is no checkpoint: what is done is done.
            now = anyio.current_time()
            # The scope's deadline: an executor may begin later, when it has what it runs a job in.
            if lease.reason is None and deadline is not None and scope.deadline <= now:
                lease.reason = CancelReason.timeout
        except BaseException:
            # Cancelled from outside, or the program is going down: no outcome of the job.
            lease.reason = lease.reason or CancelReason.shutdown
            self._interrupted(lease)
            raise
        else:
            self._ended(lease, executor, error, now - began, cancelled=scope.cancelled_caught)
            return now
        finally:
            self._running -= 1
            self.on_room()
            self._say_if_quiet()

    def _ended(
        self,
        lease: Lease,
        executor: AbstractEntrypointExecutor,
        error: Exception | None,
        seconds: float,
        *,
        cancelled: bool,
    ) -> None:
        outcome, error = outcome_of(lease, executor.parameters, error, cancelled=cancelled)
        if outcome is None:
            if error is not None:
                logger.warning(
                    "Job %s of %r was interrupted (%s) and raised in its cleanup",
                    lease.job.id,
                    lease.job.entrypoint,
                    lease.reason,
                    exc_info=error,
                )
            self._interrupted(lease)
            return
        if error is not None:
            _log_failure(lease, outcome.kind, error)
        self._writer.finish(lease, outcome)
        if self._emit is not None:
            self._emit(JobEnded(lease.job, outcome.kind, seconds, error))

    def _interrupted(self, lease: Lease) -> None:
        reason = lease.reason or CancelReason.shutdown
        if reason is CancelReason.lease_lost:
            lease.ending = True
            self._leases.settle(lease, written=True)
        else:
            self._writer.release(lease)
        if self._emit is not None:
            self._emit(JobInterrupted(lease.job, reason))


async def _execute(
    executor: AbstractEntrypointExecutor, job: Job, context: Context
) -> Exception | None:
    try:
        await executor.execute(job, context)
    except Exception as exc:  # noqa: BLE001 - a handler may raise anything
        return exc
    except anyio.get_cancelled_exc_class() as exc:  # noqa: ASYNC103 - see below
        if anyio.current_effective_deadline() == -math.inf or _is_cancelled_natively():
            raise
        # On asyncio, awaiting a future that somebody cancelled raises this in a task that nobody
        # cancelled: an error of the handler like any other.
        stray = RuntimeError("the handler awaited something that had been cancelled")
        stray.__cause__ = exc
        return stray  # noqa: ASYNC104 - nobody cancelled this task
    except BaseException as exc:  # noqa: ASYNC103 - see `as_failure`
        failure = as_failure(exc, anyio.get_cancelled_exc_class())
        if failure is None:
            raise
        return failure  # noqa: ASYNC104 - it is the handler's own
    return None


def _is_cancelled_natively() -> bool:
    """Whether somebody called asyncio's own `Task.cancel` on this task, as the end of a loop does.

    AnyIO has no public way to ask, so this looks at what its task info holds.
    """
    reference = getattr(anyio.get_current_task(), "_task", None)
    task: object = reference() if callable(reference) else None
    cancelling = getattr(task, "cancelling", None)
    return callable(cancelling) and bool(cancelling())


def _log_failure(lease: Lease, kind: str, error: Exception) -> None:
    level = logging.INFO if kind in {"retry", "canceled"} else logging.ERROR
    logger.log(
        level, "Job %s of %r ended: %s", lease.job.id, lease.job.entrypoint, kind, exc_info=error
    )


def _unchanged(pristine: ContextVars) -> bool:
    """Whether handlers left the runner's context variables as they were.

    A runner whose context a handler has changed is not used again: the next job must not see
    variables (a logger's bindings, a current span) of another one.
    """
    now = copy_context()
    return len(now) == len(pristine) and all(
        pristine.get(variable, now) is value for variable, value in now.items()
    )
