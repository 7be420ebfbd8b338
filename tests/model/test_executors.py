"""How handlers are called, on both event loops, and what is refused at registration."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from datetime import timedelta

import anyio
import anyio.from_thread
import pytest

from pgq_trio.errors import RegistrationError, RetryRequested
from pgq_trio.executors import (
    AbstractEntrypointExecutor,
    DatabaseRetryEntrypointExecutor,
    Entrypoint,
    EntrypointExecutor,
    EntrypointExecutorParameters,
    ScheduleExecutor,
    ScheduleExecutorFactoryParameters,
    ScheduleExecutorParameters,
)
from pgq_trio.models import Context, Job, Schedule, ScheduleContext
from tests.model.records import context, job, schedule, schedule_context


def executor(func: Entrypoint, *, accepts_context: bool = False) -> EntrypointExecutor:
    return EntrypointExecutor(
        EntrypointExecutorParameters(func=func, accepts_context=accepts_context)
    )


async def test_an_async_handler_gets_the_job_and_the_context_on_the_event_loop() -> None:
    seen: list[object] = []

    async def handler(one: Job, ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()
        seen.extend((one, ctx, threading.current_thread()))

    given, ctx = job(), context()
    await executor(handler, accepts_context=True).execute(given, ctx)
    assert seen == [given, ctx, threading.current_thread()]


async def test_without_a_context_only_the_job_is_passed() -> None:
    seen: list[Job] = []
    given = job()
    await executor(seen.append).execute(given, context())
    assert seen == [given]


async def test_a_plain_def_runs_in_a_thread_and_reaches_the_event_loop_from_there() -> None:
    seen: list[object] = []

    def handler(one: Job, ctx: Context) -> str:
        seen.append(threading.current_thread())
        anyio.from_thread.run(anyio.lowlevel.checkpoint)
        anyio.from_thread.check_cancelled()
        seen.append(ctx.resources["answer"])
        return "ignored"

    await executor(handler, accepts_context=True).execute(job(), context(answer=42))
    assert seen[0] is not threading.current_thread()
    assert seen[1] == 42


async def test_threads_are_bounded_by_the_limiter() -> None:
    running, most, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(2, timeout=10)

    def handler(one: Job) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait()
        with lock:
            running -= 1

    bounded = executor(handler)
    bounded.limiter = anyio.CapacityLimiter(2)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(bounded.execute, job(), context())
    assert most == 2


async def test_a_plain_def_sees_the_cancellation_of_its_job() -> None:
    started = threading.Event()
    outcome: list[str] = []

    def handler(one: Job) -> None:
        started.set()
        try:
            while True:
                anyio.from_thread.check_cancelled()
                anyio.from_thread.run(anyio.lowlevel.checkpoint)
        except BaseException as exc:
            outcome.append(type(exc).__name__)
            raise

    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor(handler).execute, job(), context())
            await anyio.to_thread.run_sync(started.wait)
            scope.cancel()
    assert scope.cancelled_caught
    assert outcome[0] in {"Cancelled", "CancelledError"}


async def work() -> None:
    await anyio.lowlevel.checkpoint()
    raise AssertionError("never awaited, never run")


@pytest.mark.parametrize("clothes", [lambda f: f, functools.partial])
async def test_a_plain_def_that_returns_a_coroutine_fails_and_says_what_to_do(
    clothes: Callable[[Entrypoint], Entrypoint],
) -> None:
    def forgetful(one: Job) -> object:
        return work()  # without await: the classic mistake with an async resource

    # A coroutine that nobody awaits is a warning, and warnings are errors here.
    with pytest.raises(TypeError, match=r"forgetful is .* `async def` .*anyio\.from_thread\.run"):
        await executor(clothes(forgetful)).execute(job(), context())


async def test_a_plain_def_that_returns_another_awaitable_fails_as_well() -> None:
    class Promise:
        def __await__(self) -> object: ...

    with pytest.raises(TypeError, match="an awaitable Promise"):
        await executor(lambda _: Promise()).execute(job(), context())


async def test_an_async_handler_that_returns_a_coroutine_fails() -> None:
    async def forgetful(one: Job) -> object:
        await anyio.lowlevel.checkpoint()
        return work()

    with pytest.raises(TypeError, match="forgetful returned a coroutine that it never awaited"):
        await executor(forgetful).execute(job(), context())


async def test_a_plain_wrapper_around_an_async_handler_is_awaited() -> None:
    ran: list[bool] = []

    async def handler(one: Job) -> None:
        await anyio.lowlevel.checkpoint()
        ran.append(True)

    @functools.wraps(handler)
    def wrapper(one: Job) -> object:
        return handler(one) if one.attempts == 0 else None

    await executor(wrapper).execute(job(), context())
    await executor(wrapper).execute(job(attempts=1), context())
    assert ran == [True]


async def test_what_a_handler_raises_comes_out_as_itself() -> None:
    error = ValueError("no")

    def handler(one: Job) -> None:
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        await executor(handler).execute(job(), context())
    assert caught.value is error


def retrying(error: Exception, **options: object) -> DatabaseRetryEntrypointExecutor:
    async def handler(one: Job) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    return DatabaseRetryEntrypointExecutor(
        EntrypointExecutorParameters(func=handler),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("attempts", "delay"), [(0, 1), (1, 2), (3, 8), (4, 10)])
async def test_the_retry_executor_waits_longer_each_time(attempts: int, delay: float) -> None:
    retry = retrying(OSError("down"), max_delay=timedelta(seconds=10))
    with pytest.raises(RetryRequested, match="down") as caught:
        await retry.execute(job(attempts=attempts), context())
    assert caught.value.delay == timedelta(seconds=delay)
    assert isinstance(caught.value.__cause__, OSError)


async def test_the_retry_executor_gives_up_after_max_attempts_retries_as_pgqueuer() -> None:
    with pytest.raises(OSError, match="down"):
        await retrying(OSError("down"), max_attempts=2).execute(job(attempts=2), context())


async def test_a_retry_of_the_handler_itself_is_left_as_it_is() -> None:
    own = RetryRequested(delay=7)
    with pytest.raises(RetryRequested) as caught:
        await retrying(own).execute(job(attempts=99), context())
    assert caught.value is own
    with pytest.raises(RetryRequested) as caught:
        await retrying(ExceptionGroup("two", [RetryRequested(3), own])).execute(job(), context())
    assert caught.value is own


async def test_the_retry_executor_survives_an_error_that_has_no_text() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(RetryRequested, match="MuteError"):
        await retrying(MuteError()).execute(job(), context())


async def test_a_schedules_handler_is_called_the_same_way() -> None:
    seen: list[object] = []

    async def tick(one: Schedule, ctx: ScheduleContext) -> None:
        await anyio.lowlevel.checkpoint()
        seen.extend((one.entrypoint, ctx.resources["answer"]))

    def sync_tick(one: Schedule) -> None:
        seen.append(threading.current_thread())

    def parameters(func: Callable[..., object], *, ctx: bool) -> ScheduleExecutorParameters:
        return ScheduleExecutorFactoryParameters(
            entrypoint="tick", expression="* * * * *", func=func, accepts_context=ctx
        )

    await ScheduleExecutor(parameters(tick, ctx=True)).execute(
        schedule(), schedule_context(answer=1)
    )
    await ScheduleExecutor(parameters(sync_tick, ctx=False)).execute(schedule(), schedule_context())
    assert seen[:2] == ["tick", 1]
    assert seen[2] is not threading.current_thread()


async def nothing(one: Job) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"func": None}, "must be callable"),
        ({"concurrency_limit": -1}, "concurrency_limit must be a whole number of at least 0"),
        ({"concurrency_limit": 1.5}, "concurrency_limit must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1"),
        ({"on_failure": "keep"}, "on_failure is 'delete' or 'hold', got 'keep'"),
        ({"retry": 5}, r"retry must have a method next_delay\(job, exception\)"),
        ({"timeout": 0}, "timeout must be longer than 0 s"),
        ({"timeout": -1}, "timeout must be at least 0 s"),
        ({"timeout": math.nan}, "timeout must be at least 0 s"),
        ({"timeout": "1"}, "timeout must be a timedelta or seconds"),
    ],
)
def test_parameters_that_cannot_work_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        EntrypointExecutorParameters(**({"func": nothing} | arguments))  # type: ignore[arg-type]


def test_a_timeout_is_kept_in_seconds() -> None:
    parameters = EntrypointExecutorParameters(func=nothing, timeout=timedelta(minutes=1))
    assert parameters.timeout == parameters.timeout_seconds == 60
    assert EntrypointExecutorParameters(func=nothing).timeout_seconds is None


def test_a_handler_that_cannot_take_what_it_gets_is_refused() -> None:
    with pytest.raises(RegistrationError, match=r"would be called with \(job, context\)"):
        executor(nothing, accepts_context=True)
    with pytest.raises(RegistrationError, match=r"would be called with \(schedule\)"):
        ScheduleExecutor(
            ScheduleExecutorParameters(entrypoint="x", expression="* * * * *", func=lambda: None)  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    "options", [{"initial_delay": -1}, {"max_attempts": -1}, {"backoff_multiplier": 0}]
)
def test_the_retry_executor_checks_its_options(options: dict[str, object]) -> None:
    with pytest.raises(RegistrationError, match=next(iter(options))):
        retrying(OSError(), **options)


async def test_a_custom_executor_may_call_its_handler_in_its_own_way() -> None:
    class Twice(EntrypointExecutor):
        async def execute(self, job: Job, context: Context) -> None:
            for _ in range(2):
                self.parameters.func(job.id, *context.resources)  # type: ignore[arg-type]
            await anyio.lowlevel.checkpoint()

    calls: list[tuple[object, ...]] = []
    parameters = EntrypointExecutorParameters(
        func=lambda one, two, three: calls.append((one, two, three))  # type: ignore[arg-type]
    )
    await Twice(parameters).execute(job(), context(a=1, b=2))
    assert calls == [(1, "a", "b")] * 2


def test_the_abstract_executor_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AbstractEntrypointExecutor(EntrypointExecutorParameters(func=nothing))  # type: ignore[abstract]
