"""What the public managers have in common: one `Core`, and the decorators that fill it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pgq_trio.abc import Driver, Observer, RetryPolicy
from pgq_trio.client.queries import Queries
from pgq_trio.core import Core
from pgq_trio.executors import AbstractEntrypointExecutor, Entrypoint, ScheduleCrontab
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.models import Context, Health, ResourceMapping
from pgq_trio.resources import plain_resources
from pgq_trio.scheduler.registry import ScheduleExecutorFactory
from pgq_trio.settings import Settings
from pgq_trio.types import JobId, Misfire, OnFailure
from pgq_trio.worker.registry import ExecutorFactory

Handler = TypeVar("Handler", bound=Entrypoint)
ScheduleHandler = TypeVar("ScheduleHandler", bound=ScheduleCrontab)


class Manager:
    """One application seen from one side.

    Args:
        driver_or_queries: one of `pgq_trio.db`, or a `Queries`.
        resources: the shared mapping, whose life is the caller's; None: an empty one.
        settings: names of the database objects; None: from the environment.
        observers: told of what happens.

    Raises:
        TypeError: this is no driver.
        ResourceError: resources that have to be entered; that is what `PgQueuer.open` does.
    """

    def __init__(
        self,
        driver_or_queries: Driver | Queries | Core,
        *,
        resources: ResourceMapping | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if isinstance(driver_or_queries, Core):
            self._core = driver_or_queries
        else:
            self._core = Core(
                driver_or_queries,
                resources=plain_resources(resources),
                settings=settings,
                observers=observers,
            )

    @property
    def queries(self) -> Queries:
        """Asking for work, and about it."""
        return self._core.queries

    @property
    def resources(self) -> ResourceMapping:
        """The shared container, the very object that every job and schedule gets."""
        return self._core.resources

    def request_shutdown(self, grace_period: Duration | None = None) -> None:
        """Ask the run to stop: claim nothing more, then cancel after the grace period.

        Args:
            grace_period: a `timedelta` or seconds; None: what `run` was given. A later request
                can only shorten it.

        Safe from any thread, from the event loop's own and from a signal handler; never blocks.
        Asked before `run`, it holds for the next one.
        """
        grace = None if grace_period is None else seconds(grace_period, "grace_period")
        self._core.request_shutdown(grace)

    def health(self) -> Health:
        """Say whether the run can do its work now: ok, degraded or stopped."""
        return self._core.health()


class RegistersEntrypoints(Manager):
    """The queue's decorators."""

    def entrypoint(
        self,
        name: str,
        *,
        concurrency_limit: int = 0,
        accepts_context: bool | None = None,
        on_failure: OnFailure = "delete",
        executor_factory: ExecutorFactory | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        max_attempts: int = 25,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated handler for jobs of this name.

        Args:
            name: unique in the program.
            concurrency_limit: how many of these jobs run at once in the whole fleet; 0: no limit.
            accepts_context: whether the handler is called with `(job, ctx)`; None: look whether
                it has a parameter annotated `Context`.
            on_failure: "delete" the row of a job that raised, or "hold" it as failed.
            executor_factory: makes the executor from its parameters.
            retry: whether and when a job that raised runs again.
            timeout: how long a job may run, a `timedelta` or seconds.
            max_attempts: a job whose last so many runs all ended without an outcome, because
                their workers died or fell silent, is held as failed instead of run again, whatever
                `on_failure` says. Retries are bounded by `retry`.

        Raises:
            RegistrationError: an argument cannot work, the name is taken, or a run is going.
        """
        self._core.check_registration()
        self._core.entrypoints.check_name(name)

        def register(handler: Handler) -> Handler:
            self._core.entrypoints.add(
                name,
                handler,
                concurrency_limit=concurrency_limit,
                accepts_context=accepts_context,
                on_failure=on_failure,
                executor_factory=executor_factory,
                retry=retry,
                timeout=timeout,
                max_attempts=max_attempts,
            )
            return handler

        return register

    def register_executor(self, name: str, executor: AbstractEntrypointExecutor) -> None:
        """Register a whole executor for jobs of this name.

        Raises:
            RegistrationError: the name is taken, this is no executor, or a run is going.
        """
        self._core.check_registration()
        self._core.entrypoints.add_executor(name, executor)

    def get_context(self, job_id: JobId) -> Context:
        """Return the context of a job that runs here now; safe from the job's worker thread.

        Raises:
            UnknownJob: it does not run here, or not any more.
        """
        return self._core.context_of(job_id)


class RegistersSchedules(Manager):
    """The scheduler's decorator."""

    def schedule(
        self,
        name: str,
        expression: str,
        *,
        accepts_context: bool | None = None,
        timezone: str = "UTC",
        misfire: Misfire = "last",
        misfire_grace: Duration | None = None,
        executor_factory: ScheduleExecutorFactory | None = None,
        clean_old: bool = False,
    ) -> Callable[[ScheduleHandler], ScheduleHandler]:
        """Register the decorated handler for a cron expression.

        Args:
            name: one name may have several expressions.
            expression: croniter's syntax, five fields, or six with the seconds last.
            accepts_context: whether the handler is called with `(schedule, ctx)`; None: look
                whether it has a parameter annotated `ScheduleContext`.
            timezone: an IANA name in which the expression is read.
            misfire: fire times that nobody answered: "last" runs once for all of them, "skip"
                leaves them out, "all" runs each.
            misfire_grace: how late a fire may be, a `timedelta` or seconds.
            executor_factory: makes the executor from its parameters.
            clean_old: delete this name's rows with other expressions at the start.

        Raises:
            RegistrationError: an argument cannot work, the pair is registered already, or a run is
                going.
        """
        self._core.check_registration()

        def register(handler: ScheduleHandler) -> ScheduleHandler:
            self._core.schedules.add(
                name,
                expression,
                handler,
                accepts_context=accepts_context,
                timezone=timezone,
                misfire=misfire,
                misfire_grace=misfire_grace,
                executor_factory=executor_factory,
                clean_old=clean_old,
            )
            return handler

        return register
