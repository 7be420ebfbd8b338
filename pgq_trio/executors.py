"""How handlers are called: on the event loop or in a worker thread; knows no queue, no store.

A handler is an `async def`, a plain `def` (it runs in a worker thread), a partial, a bound method
or any callable object. What it returns is ignored, except for a coroutine that nobody awaited.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from typing import TypeAlias, cast, get_args

import anyio
import anyio.lowlevel
import anyio.to_thread

from pgq_trio.abc import RetryPolicy
from pgq_trio.errors import RegistrationError, RetryRequested
from pgq_trio.model.durations import Duration, seconds
from pgq_trio.model.handlers import (
    check_call,
    check_handler,
    describe,
    is_async_callable,
    wants_context,
)
from pgq_trio.model.outcomes import retry_of
from pgq_trio.model.retry import exponential_delay
from pgq_trio.models import Context, Job, Schedule, ScheduleContext
from pgq_trio.types import OnFailure

__all__ = [
    "AbstractEntrypointExecutor",
    "AbstractScheduleExecutor",
    "DatabaseRetryEntrypointExecutor",
    "Entrypoint",
    "EntrypointExecutor",
    "EntrypointExecutorParameters",
    "ScheduleCrontab",
    "ScheduleExecutor",
    "ScheduleExecutorFactoryParameters",
    "ScheduleExecutorParameters",
    "is_async_callable",
    "wants_context",
]

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
        max_attempts: rescues after which a job that kills its workers is to be held; at least 1.
            Kept, but not enforced by this release.

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
        _check_count("concurrency_limit", self.concurrency_limit, 0, " (0 means no limit)")
        _check_count("max_attempts", self.max_attempts, 1)
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
            object.__setattr__(self, "timeout", _positive_seconds("timeout", self.timeout))

    @property
    def timeout_seconds(self) -> float | None:
        """The timeout in seconds; None without one."""
        return None if self.timeout is None else seconds(self.timeout, "timeout")


@dataclass(eq=False)
class AbstractEntrypointExecutor(ABC):
    """Runs the jobs of one entrypoint; derive from it to run them in your own way.

    One executor serves all jobs of its entrypoint in a process, many of them at once.

    Attributes:
        parameters: what was registered.
        limiter: bounds the worker threads of plain `def` handlers. The worker sets its own
            before it runs the first job; with None AnyIO's default of 40 threads holds.
    """

    parameters: EntrypointExecutorParameters
    limiter: anyio.CapacityLimiter | None = field(default=None, init=False, repr=False)

    @abstractmethod
    async def execute(self, job: Job, context: Context) -> None:
        """Run one job.

        Called in the job's own task, within the job's cancel scope: returning means success,
        raising `RetryRequested` another attempt, any other `Exception` a failure. Cancellation
        arrives as the backend's own exception and has to be let through.
        """
        ...


@dataclass(eq=False)
class EntrypointExecutor(AbstractEntrypointExecutor):
    """Calls an async handler on the event loop, and a plain `def` in a worker thread.

    In the thread `anyio.from_thread.run(async_fn, ...)` reaches async resources and
    `anyio.from_thread.check_cancelled()` raises once the job is cancelled. A thread cannot be
    stopped from outside, so a cancelled job ends when its handler returns.

    Raises:
        RegistrationError: the handler cannot be called with what it would get.
    """

    def __post_init__(self) -> None:
        if type(self).__module__ == __name__:  # a user's subclass may call it in its own way
            arguments = ("job", "context")[: 1 + self.parameters.accepts_context]
            check_call(self.parameters.func, "entrypoint", *arguments)

    @cached_property
    def _is_async(self) -> bool:
        return is_async_callable(self.parameters.func)

    async def execute(self, job: Job, context: Context) -> None:
        """Call the handler with `(job)`, or with `(job, context)` where it accepts a context.

        Raises whatever the handler raises, and `TypeError` when it returned a coroutine.
        Cancellation reaches an async handler at its next checkpoint.
        """
        func = cast("Callable[..., object]", self.parameters.func)
        args = (job, context) if self.parameters.accepts_context else (job,)
        if self._is_async:
            await _call_here(func, *args)
        else:
            await _call_in_thread(func, *args, limiter=self.limiter)


@dataclass(eq=False)
class DatabaseRetryEntrypointExecutor(EntrypointExecutor):
    """Queues a job again after any exception, with a wait that grows with `job.attempts`.

    PgQueuer's class of this name, with its meaning: `max_attempts` counts *retries*, so a job
    runs up to `max_attempts + 1` times before its exception is final. (A policy given as
    `retry=` counts all attempts.) A `RetryRequested` of the handler itself is left as it is.

    Attributes:
        max_attempts: how many retries there are.
        initial_delay: the wait before the first retry, a `timedelta` or seconds.
        max_delay: the longest wait, a `timedelta` or seconds.
        backoff_multiplier: how much longer each wait is than the one before it.

    Raises:
        RegistrationError: a wait is negative, or the multiplier not positive.
    """

    max_attempts: int = 5
    initial_delay: Duration = timedelta(seconds=1)
    max_delay: Duration = timedelta(minutes=5)
    backoff_multiplier: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("max_attempts", self.max_attempts, 0)
        for name in ("initial_delay", "max_delay"):
            _refused_as_registration(seconds, getattr(self, name), name)
        if not self.backoff_multiplier > 0:
            raise RegistrationError(
                f"backoff_multiplier must be positive, got {self.backoff_multiplier!r}"
            )

    async def execute(self, job: Job, context: Context) -> None:
        """Call the handler; turn what it raises into `RetryRequested` while retries are left."""
        try:
            await super().execute(job, context)
        except Exception as exc:
            if (own := retry_of(exc)) is not None:
                if own is exc:
                    raise
                raise own from exc
            if job.attempts >= self.max_attempts:
                raise
            delay = exponential_delay(
                job.attempts,
                initial=seconds(self.initial_delay, "initial_delay"),
                maximum=seconds(self.max_delay, "max_delay"),
                multiplier=self.backoff_multiplier,
            )
            raise RetryRequested(delay=delay, reason=_reason(exc)) from exc


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


@dataclass(eq=False)
class AbstractScheduleExecutor(ABC):
    """Runs the fires of one schedule; derive from it to run them in your own way.

    Attributes:
        parameters: what was registered.
        limiter: bounds the worker threads of plain `def` handlers; None: AnyIO's default.
    """

    parameters: ScheduleExecutorParameters
    limiter: anyio.CapacityLimiter | None = field(default=None, init=False, repr=False)

    @abstractmethod
    async def execute(self, schedule: Schedule, context: ScheduleContext) -> None:
        """Run one fire, in its own task and cancel scope; an `Exception` is logged as a failure.

        Cancellation arrives as the backend's own exception and has to be let through.
        """
        ...


@dataclass(eq=False)
class ScheduleExecutor(AbstractScheduleExecutor):
    """Calls an async handler on the event loop, and a plain `def` in a worker thread.

    Raises:
        RegistrationError: the handler cannot be called with what it would get.
    """

    def __post_init__(self) -> None:
        if type(self).__module__ == __name__:  # a user's subclass may call it in its own way
            arguments = ("schedule", "context")[: 1 + self.parameters.accepts_context]
            check_call(self.parameters.func, "schedule", *arguments)

    @cached_property
    def _is_async(self) -> bool:
        return is_async_callable(self.parameters.func)

    async def execute(self, schedule: Schedule, context: ScheduleContext) -> None:
        """Call the handler with `(schedule)`, or `(schedule, context)` where it accepts one.

        Raises whatever the handler raises, and `TypeError` when it returned a coroutine.
        Cancellation reaches an async handler at its next checkpoint.
        """
        func = cast("Callable[..., object]", self.parameters.func)
        args = (schedule, context) if self.parameters.accepts_context else (schedule,)
        if self._is_async:
            await _call_here(func, *args)
        else:
            await _call_in_thread(func, *args, limiter=self.limiter)


async def _call_here(func: Callable[..., object], *args: object) -> None:
    result = func(*args)
    if inspect.isawaitable(result):
        result = await result
    else:  # a plain wrapper around an `async def` that chose not to call it
        await anyio.lowlevel.checkpoint()
    if result is not None and inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"the handler {describe(func)} returned a coroutine that it never awaited, so its "
            "work was not done: `await` the call, do not return it"
        )


async def _call_in_thread(
    func: Callable[..., object], *args: object, limiter: anyio.CapacityLimiter | None
) -> None:
    call = partial(_call_sync, func, *args)
    await anyio.to_thread.run_sync(call, abandon_on_cancel=False, limiter=limiter)


def _call_sync(func: Callable[..., object], *args: object) -> None:
    result = func(*args)
    if result is None or not inspect.isawaitable(result):
        return
    kind = "a coroutine" if inspect.iscoroutine(result) else f"an awaitable {type(result).__name__}"
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError(
        f"the handler {describe(func)} is a plain `def` and returned {kind}, so its work was not "
        "done: make it an `async def` and `await` the call there, or call "
        "`anyio.from_thread.run(async_function, ...)` in it"
    )


def _reason(exc: Exception) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return type(exc).__name__


def _check_count(name: str, value: object, minimum: int, hint: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise RegistrationError(
            f"{name} must be a whole number of at least {minimum}{hint}, got {value!r}"
        )


def _positive_seconds(name: str, value: object) -> float:
    result = _refused_as_registration(seconds, value, name)
    if result == 0:
        raise RegistrationError(f"{name} must be longer than 0 s; None means no {name}")
    return result


def _refused_as_registration(
    check: Callable[[object, str], float], value: object, name: str
) -> float:
    try:
        return check(value, name)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(str(exc)) from exc
