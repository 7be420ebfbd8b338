"""What was registered, checked: the parameters of executors; it calls nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast, get_args

from pgq_trio.abc import RetryPolicy
from pgq_trio.errors import RegistrationError
from pgq_trio.executors.checks import check_count, positive_seconds
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.model.handlers import check_handler
from pgq_trio.models import Context, Job, Schedule, ScheduleContext
from pgq_trio.types import OnFailure

#: A handler of jobs; async or not.
Entrypoint: TypeAlias = Callable[[Job], object] | Callable[[Job, Context], object]
#: A handler of a schedule; async or not.
ScheduleCrontab: TypeAlias = (
    Callable[[Schedule], object] | Callable[[Schedule, ScheduleContext], object]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrypointExecutorParameters:
    """What was registered with an entrypoint, checked.

    Attributes:
        func: the handler.
        concurrency_limit: how many of its jobs run at once in the whole fleet; 0: no limit.
        accepts_context: whether the handler is called with `(job, context)` instead of `(job)`.
        on_failure: what becomes of a job that fails for good: "delete" its row, or "hold" it.
        retry: decides about another attempt after an exception; None: there is none.
        timeout: how long a job may run, a `timedelta` or seconds; None: for ever.
        max_attempts: a job whose last so many runs all ended without an outcome, because their
            workers died, is held as failed instead of run again; at least 1.

    Raises:
        RegistrationError: an argument cannot work; the message says why.
    """

    func: Entrypoint
    concurrency_limit: int = 0
    accepts_context: bool = False
    on_failure: OnFailure = "delete"
    retry: RetryPolicy | None = None
    timeout: Duration | None = None
    max_attempts: int = 25

    def __post_init__(self) -> None:
        check_handler(self.func, "entrypoint")
        check_count("concurrency_limit", self.concurrency_limit, 0, " (0 means no limit)")
        check_count("max_attempts", self.max_attempts, 1)
        if self.on_failure not in get_args(OnFailure):
            raise RegistrationError(
                f"on_failure is 'delete' or 'hold', got {cast('object', self.on_failure)!r}"
            )
        if self.retry is not None and not callable(getattr(self.retry, "next_delay", None)):
            raise RegistrationError(
                f"retry must have a method next_delay(job, exception), got {self.retry!r}; "
                "for example Exponential(max_attempts=5)"
            )
        if self.timeout is not None:
            object.__setattr__(self, "timeout", positive_seconds("timeout", self.timeout))

    @property
    def timeout_seconds(self) -> float | None:
        """The timeout in seconds; None without one."""
        return None if self.timeout is None else seconds(self.timeout, "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleExecutorParameters:
    """What was registered with a schedule, checked.

    Attributes:
        entrypoint: the schedule's name.
        expression: its cron expression as it stands in the table.
        func: the handler.
        clean_old: whether other rows of the same name are deleted before the scheduler starts.
        accepts_context: whether the handler is called with `(schedule, context)`.

    Raises:
        RegistrationError: the handler is not callable.
    """

    entrypoint: str
    expression: str
    func: ScheduleCrontab
    clean_old: bool = False
    accepts_context: bool = False

    def __post_init__(self) -> None:
        check_handler(self.func, "schedule")


#: PgQueuer's name for it.
ScheduleExecutorFactoryParameters = ScheduleExecutorParameters
