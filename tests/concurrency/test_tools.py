"""Wake-ups, back-off, shutdown requests and running elsewhere."""

from __future__ import annotations

import os
import signal
import threading

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, strategies as st

from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.concurrency.elsewhere import run_in
from pgq_trio.concurrency.errors import is_only, raise_as_itself, unwrapped
from pgq_trio.concurrency.shutdown import Shutdown
from pgq_trio.concurrency.wakeup import Wakeup


@pytest.mark.anyio
async def test_a_wakeup_set_after_clear_and_before_wait_is_not_lost() -> None:
    wakeup = Wakeup()
    wakeup.clear()
    wakeup.set()  # somebody enqueues while we look
    with anyio.fail_after(5):
        await wakeup.wait()


@pytest.mark.anyio
async def test_a_wakeup_waits_no_longer_than_told() -> None:
    wakeup = Wakeup()
    with anyio.fail_after(5):
        await wakeup.wait(0.001)
    wakeup.set()
    wakeup.clear()
    with anyio.move_on_after(0.001) as scope:
        await wakeup.wait()
    assert scope.cancelled_caught


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_backoff_stays_in_the_upper_half_of_a_doubling_bounded_range(draws: list[float]) -> None:
    fractions = iter(draws)
    backoff = Backoff(0.1, 5, uniform=lambda a, b: a + (b - a) * next(fractions))
    expected = 0.1
    for _ in draws:
        assert expected / 2 <= backoff.next() <= expected <= 5
        expected = min(5, expected * 2)
    backoff.reset()
    assert Backoff(0.1, 5, uniform=max).next() == 0.1


async def _requests(shutdown: Shutdown, count: int) -> list[float]:
    seen: list[float] = []
    with anyio.fail_after(5), anyio.CancelScope() as scope:

        def on_request(seconds: float) -> None:
            seen.append(seconds)
            if len(seen) == count:
                scope.cancel()

        await shutdown.watch(on_request)
    return seen


@pytest.mark.anyio
async def test_a_request_before_anybody_listens_is_kept() -> None:
    shutdown = Shutdown(grace_period=7)
    shutdown.request()
    shutdown.request(2)
    assert shutdown.requested
    assert await _requests(shutdown, 2) == [7, 2]


@pytest.mark.anyio
async def test_a_request_from_a_foreign_thread_and_from_the_loops_own_thread() -> None:
    shutdown = Shutdown(grace_period=7)
    seen: list[float] = []
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            seen.extend(await _requests(shutdown, 2))

        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=shutdown.request, args=(1.0,))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        shutdown.request(2.0)
    assert seen == [1.0, 2.0]


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_asks_and_the_second_cancels_now(number: signal.Signals) -> None:
    shutdown = Shutdown(grace_period=7)
    seen: list[float] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shutdown.watch_signals)
            await anyio.wait_all_tasks_blocked()

            def on_request(seconds: float) -> None:
                seen.append(seconds)
                if len(seen) == 2:
                    tasks.cancel_scope.cancel()
                else:
                    os.kill(os.getpid(), number)

            os.kill(os.getpid(), number)
            await shutdown.watch(on_request)
    assert seen == [7, 0.0]


def test_signals_are_left_alone_outside_of_the_main_thread() -> None:
    caught: list[str] = []

    def run() -> None:
        with pytest.warns(RuntimeWarning, match="left alone") as record:
            anyio.run(Shutdown().watch_signals, backend="trio")
        caught.extend(str(warning.message) for warning in record)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert len(caught) == 1


@pytest.mark.anyio
async def test_run_in_returns_and_says_when_it_is_ready() -> None:
    log: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def function(ready: object) -> None:
            assert callable(ready)
            await anyio.lowlevel.checkpoint()
            log.append("ready")
            ready()
            await anyio.lowlevel.checkpoint()

        assert await run_in(tasks, function, name="f", started=lambda: log.append("started"))
    assert log == ["ready", "started"]


@pytest.mark.anyio
async def test_run_in_raises_the_functions_error_here_and_not_in_the_group() -> None:
    async with anyio.create_task_group() as tasks:

        async def function(_ready: object) -> None:
            await anyio.lowlevel.checkpoint()
            raise LookupError("from there")

        with pytest.raises(LookupError, match="from there"):
            await run_in(tasks, function, name="f", started=lambda: None)


@pytest.mark.anyio
async def test_cancelling_the_caller_waits_for_the_functions_cleanup() -> None:
    log: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def function(ready: object) -> None:
            assert callable(ready)
            try:
                ready()
                await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(5, shield=True):
                    await anyio.lowlevel.checkpoint()
                log.append("cleaned up")

        with anyio.CancelScope() as scope:
            await run_in(tasks, function, name="f", started=scope.cancel)
        log.append("caller goes on")
    assert log == ["cleaned up", "caller goes on"]


@pytest.mark.anyio
async def test_run_in_says_when_the_group_was_cancelled_under_it() -> None:
    results: list[bool] = []
    async with anyio.create_task_group() as callers, anyio.create_task_group() as tasks:

        async def function(_ready: object) -> None:
            await anyio.sleep_forever()

        async def call() -> None:
            results.append(await run_in(tasks, function, name="f", started=lambda: None))

        callers.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert results == [False]


def test_groups_of_one_are_taken_apart_and_groups_of_more_are_not() -> None:
    inner = ValueError("inner")
    inner.__context__ = context = KeyError("before")
    nested = ExceptionGroup("a", [ExceptionGroup("b", [inner])])
    assert unwrapped(nested) is inner
    two = ExceptionGroup("two", [inner, KeyError()])
    assert unwrapped(ExceptionGroup("outer", [two])) is two
    with pytest.raises(ValueError, match="inner") as caught:
        try:
            raise nested
        except BaseExceptionGroup as group:
            raise_as_itself(group)
    assert caught.value.__context__ is context
    assert is_only(nested, inner)
    assert not is_only(two, inner)


def test_a_group_that_was_built_anew_is_only_what_it_was() -> None:
    original = ExceptionGroup("a nursery", [ValueError(), KeyError()])
    # As a nursery takes a cancellation out.
    _, anew = BaseExceptionGroup("outer", [original, SystemExit()]).split(SystemExit)
    assert anew is not None
    assert original not in anew.exceptions
    assert is_only(anew, original)
    # What a nursery caught of the original itself, such as a cancellation, is no other error.
    assert is_only(ExceptionGroup("the rest", original.exceptions[:1]), original)
    assert not is_only(ExceptionGroup("more", [original, ValueError()]), original)
    assert not is_only(original, None)
