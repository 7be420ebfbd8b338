"""One run of an application: services, scheduler and worker, started in this order and stopped
in reverse. It wires rooms together and knows neither decorators nor targets.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pgq_trio.abc import Backend
from pgq_trio.concurrency.errors import raise_as_itself
from pgq_trio.concurrency.services import ServiceGroup, open_service_group
from pgq_trio.concurrency.shutdown import Shutdown
from pgq_trio.concurrency.wakeup import Wakeup
from pgq_trio.errors import RegistrationError, SchemaMissing, UnknownJob
from pgq_trio.executors import AbstractEntrypointExecutor
from pgq_trio.listening import Listener
from pgq_trio.maintenance.service import Maintenance
from pgq_trio.model.events import Event, HealthChanged, NotificationIgnored
from pgq_trio.model.retention import Retention, as_retention
from pgq_trio.model.wire import Event as NotifiedEvent, Ignored, TableChanged
from pgq_trio.models import Context, Health, ResourceMapping
from pgq_trio.scheduler.loop import Scheduler
from pgq_trio.scheduler.registry import ScheduleEntry
from pgq_trio.types import JobId, QueueExecutionMode
from pgq_trio.worker.options import RunOptions
from pgq_trio.worker.worker import CHANNELS, Worker

logger: logging.Logger = logging.getLogger("pgq_trio.engine")

#: Anybody may flood the channel; the log must not be flooded with it.
_WORTH_A_LINE = frozenset(10**exponent for exponent in range(19))


@dataclass(slots=True, kw_only=True)
class Engine:
    """What runs during one `run()`.

    Attributes:
        entrypoints: executors by name; without any no worker runs.
        schedules: what the scheduler fires; without any, and in drain mode, none runs.
    """

    backend: Backend
    entrypoints: Mapping[str, AbstractEntrypointExecutor]
    schedules: list[ScheduleEntry]
    resources: ResourceMapping
    emit: Callable[[Event], None] | None
    shutdown: Shutdown
    worker: Worker | None = field(default=None, init=False)
    scheduler: Scheduler | None = field(default=None, init=False)
    _problems: dict[str, str] | None = field(default=None, init=False)
    _ignored: int = field(default=0, init=False)

    async def run(self, options: RunOptions, ready: Callable[[], None]) -> None:
        """Run until stopped or drained; `ready` is called once it claims.

        Raises:
            RegistrationError: nothing is registered.
            SchemaMissing: the tables are not there; nothing was claimed.
        """
        if not self.entrypoints and not self.schedules:
            raise RegistrationError(
                "nothing to run: register a handler with @pgq.entrypoint(...) or @pgq.schedule(...)"
            )
        missing = await self.backend.schema.missing()
        if missing:
            raise SchemaMissing(missing)
        self._problems = {}
        self.shutdown.grace_period = options.grace_period
        try:
            async with open_service_group() as services:
                await self._run_with(services, options, ready)
        finally:
            self._problems = None

    def context_of(self, job_id: JobId) -> Context:
        """Return the context of a job that runs here now, else raise `UnknownJob`."""
        if self.worker is None:
            raise UnknownJob(job_id)
        return self.worker.context_of(job_id)

    def health(self) -> Health:
        """Say whether all parts can do their work now."""
        if self._problems is None:
            return Health(status="stopped")
        status = "degraded" if self._problems else "ok"
        return Health(status=status, problems=dict(self._problems))

    async def _run_with(
        self, services: ServiceGroup, options: RunOptions, ready: Callable[[], None]
    ) -> None:
        async with AsyncExitStack() as at_end:
            if self.entrypoints:
                self.worker = Worker(
                    self.backend,
                    executors=self.entrypoints,
                    resources=self.resources,
                    options=options,
                    emit=self.emit,
                    on_problem=self._on_problem,
                )
                await self.worker.start_services(services)
                at_end.push_async_callback(self.worker.hand_back)
            if self.schedules and options.mode is not QueueExecutionMode.drain:
                self.scheduler = self._make_scheduler()
            await services.start(self._make_listener().run, name="listener")
            retention = as_retention(self.backend.settings.retention)
            if retention is not None and options.mode is not QueueExecutionMode.drain:
                await services.start(self._make_maintenance(retention).run, name="maintenance")
            try:
                async with anyio.create_task_group() as tasks:
                    await self._run_loops(tasks, options, ready)
            except BaseExceptionGroup as group:
                raise_as_itself(group)

    async def _run_loops(
        self, tasks: TaskGroup, options: RunOptions, ready: Callable[[], None]
    ) -> None:
        loops = _Loops(self.worker, self.scheduler)
        if options.handle_signals:
            tasks.start_soon(self.shutdown.watch_signals, name="watch for signals")
        tasks.start_soon(self.shutdown.watch, loops.stop_within, name="watch for shutdown")
        tasks.start_soon(loops.enforce_grace_period, name="end of the grace period")
        await loops.run(ready)
        tasks.cancel_scope.cancel()  # only the watchers are left

    def _make_scheduler(self) -> Scheduler:
        return Scheduler(
            self.backend.schedules,
            self.schedules,
            resources=self.resources,
            emit=self._on_scheduler_event,
        )

    def _make_listener(self) -> Listener:
        return Listener(
            self.backend.notifier,
            channels=("work",) if self.worker is None else CHANNELS,
            on_event=self._on_notification,
            on_connected=self._on_listening,
            on_problem=lambda problem: self._on_problem("listener", problem),
        )

    def _make_maintenance(self, retention: Retention) -> Maintenance:
        return Maintenance(
            self.backend.insights,
            retention,
            on_problem=lambda problem: self._on_problem("maintenance", problem),
        )

    def _on_listening(self) -> None:
        if self.worker is not None:
            self.worker.on_listening()
        if self.scheduler is not None:
            self.scheduler.notify()

    def _on_notification(self, event: NotifiedEvent) -> None:
        if isinstance(event, Ignored):
            if event.problem is not None:
                self._ignore(event.problem)
        elif (
            isinstance(event, TableChanged) and event.table == self.backend.settings.schedules_table
        ):
            if self.scheduler is not None:
                self.scheduler.notify()
        elif self.worker is not None:
            self.worker.take(event)

    def _ignore(self, problem: str) -> None:
        """Count a notification that is none of ours; the 1st, 10th, 100th… is worth a line."""
        self._ignored += 1
        if self._ignored in _WORTH_A_LINE:
            logger.warning("ignored %s notifications so far, the last: %s", self._ignored, problem)
        if self.emit is not None:
            self.emit(NotificationIgnored(problem))

    def _on_scheduler_event(self, event: Event) -> None:
        if isinstance(event, HealthChanged):
            self._on_problem(event.part, event.problem)
        elif self.emit is not None:
            self.emit(event)

    def _on_problem(self, part: str, problem: str | None) -> None:
        if self._problems is None or self._problems.get(part) == problem:
            return
        was_well = not self._problems
        if problem is None:
            del self._problems[part]
            if not self._problems:
                logger.info("the database is there again")
        else:
            self._problems[part] = problem
            if was_well:
                logger.warning("degraded, running jobs go on: %s: %s", part, problem)
        if self.emit is not None:
            self.emit(HealthChanged(part, problem))


class _Once(TaskStatus[None]):
    """A task status that may be told again."""

    def __init__(self, status: TaskStatus[None]) -> None:
        self._status = status
        self._is_told = False

    def started(self, value: None = None) -> None:
        """Tell it, the first time."""
        if not self._is_told:
            self._is_told = True
            self._status.started(value)


class _Loops:
    """The worker and the scheduler of one run, and how they are told to stop."""

    def __init__(self, worker: Worker | None, scheduler: Scheduler | None) -> None:
        self._worker = worker
        self._scheduler = scheduler
        self._fires = anyio.CancelScope()
        self._give_up_at = math.inf
        self._changed = Wakeup()

    async def run(self, ready: Callable[[], None]) -> None:
        """Run both until both have ended."""
        async with anyio.create_task_group() as loops:
            if self._scheduler is not None:
                await loops.start(self._run_scheduler, self._scheduler, name="scheduler")
            ready()
            if self._worker is not None:
                await self._worker.run()

    async def _run_scheduler(  # noqa: ASYNC128 - the scheduler says when
        self, scheduler: Scheduler, *, task_status: TaskStatus[None]
    ) -> None:
        begun = _Once(task_status)
        with self._fires:
            await scheduler.run(task_status=begun)
        begun.started()  # the grace period may have ended before it began

    def stop_within(self, seconds: float) -> None:
        """Begin to stop, or bring the end of the grace period nearer."""
        self._give_up_at = min(self._give_up_at, anyio.current_time() + seconds)
        self._changed.set()
        if self._worker is not None:
            self._worker.drain()
        if self._scheduler is not None:
            self._scheduler.stop()

    async def enforce_grace_period(self) -> None:
        """Cancel what still runs when the grace period is over."""
        while (left := self._give_up_at - anyio.current_time()) > 0:
            self._changed.clear()
            await self._changed.wait(None if left == math.inf else left)
        if self._worker is not None:
            self._worker.cancel_running()
        self._fires.cancel()
