"""Worlds that a synchronous test drives step by step, on both loops and both clocks.

These are sync tests: a live world has an event loop of its own.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pgq_trio import Job, PgQueuer
from pgq_trio.store import memory_clock
from pgq_trio.testing import BACKENDS, Backend, Deadlock, LiveClock, Livelock, ThreadRefused, live

backends = pytest.mark.parametrize("backend", BACKENDS)
clocks = pytest.mark.parametrize("clock", ["virtual", "real"])


class Crash(Exception):
    """What a task raises on purpose."""


async def crash() -> None:
    await anyio.lowlevel.checkpoint()
    raise Crash


async def add(number: int, *, to: int) -> int:
    await anyio.lowlevel.checkpoint()
    return number + to


class TestCall:
    @backends
    @clocks
    def test_async_and_sync_functions(self, backend: Backend, clock: LiveClock) -> None:
        with live(backend, clock=clock) as world:
            assert world.call(add, 1, to=2) == 3
            assert world.call(threading.current_thread).name == "live world"

    @backends
    @clocks
    def test_what_it_raises_leaves_the_world_as_it_is(
        self, backend: Backend, clock: LiveClock
    ) -> None:
        with live(backend, clock=clock) as world:
            with pytest.raises(Crash):
                world.call(crash)
            assert world.call(add, 1, to=2) == 3

    @backends
    @clocks
    def test_one_that_cannot_end_is_told_with_the_tasks(
        self, backend: Backend, clock: LiveClock
    ) -> None:
        with live(backend, clock=clock, limit=0.1) as world:
            world.start(anyio.sleep_forever, name="sleeper")
            with pytest.raises(Deadlock, match=r"did not end within 0\.1 s; .*: sleeper at sleep_"):
                world.call(anyio.Event().wait)
            assert world.call(add, 1, to=2) == 3

    @backends
    def test_nothing_moves_between_two_calls(self, backend: Backend) -> None:
        steps: list[int] = []

        async def walk() -> None:
            for step in range(100):
                steps.append(step)
                await anyio.lowlevel.checkpoint()

        with live(backend) as world:
            world.start(walk)
            assert steps == []
            time = world.call(anyio.current_time)
            assert world.call(anyio.current_time) == time
            world.settle()
            assert len(steps) == 100


class TestTime:
    @backends
    def test_settling_takes_no_time_to_speak_of(self, backend: Backend) -> None:
        with live(backend) as world:
            sleeper = world.start(anyio.sleep, 0.001)
            world.settle()
            assert sleeper.is_running
            assert world.call(anyio.current_time) == pytest.approx(0, abs=1e-5)

    @backends
    def test_advancing_goes_through_all_deadlines(self, backend: Backend) -> None:
        woken: list[float] = []

        async def sleeper(seconds: float) -> None:
            while True:
                await anyio.sleep(seconds)
                woken.append(seconds)

        with live(backend) as world:
            for seconds in (2.0, 3.0):
                world.start(sleeper, seconds)
            world.advance(6)
            assert sorted(woken) == [2, 2, 2, 3, 3]
            assert world.call(anyio.current_time) == pytest.approx(6, abs=1e-4)

    @backends
    def test_whoever_wakes_at_the_end_of_it_has_run(self, backend: Backend) -> None:
        with live(backend) as world:
            sleeper = world.start(anyio.sleep, 5)
            world.advance(5)
            assert not sleeper.is_running

    @backends
    @clocks
    def test_until_a_condition_holds(self, backend: Backend, clock: LiveClock) -> None:
        with live(backend, clock=clock) as world:
            sleeper = world.start(anyio.sleep, 0.05)

            async def is_over() -> bool:
                await anyio.lowlevel.checkpoint()
                return not sleeper.is_running

            world.until(is_over)
            assert not sleeper.is_running
            world.until(lambda: True)
            with pytest.raises(Deadlock, match=r"waiting for .* did not end within 0\.1 s"):
                world.until(lambda: False, within=0.1)

    @backends
    def test_the_real_clock_cannot_settle(self, backend: Backend) -> None:
        with live(backend, clock="real") as world:
            with pytest.raises(RuntimeError, match="until"):
                world.settle()
            before = world.call(anyio.current_time)
            world.advance(0.02)
            assert world.call(anyio.current_time) >= before + 0.02


class TestTasks:
    @backends
    @clocks
    def test_a_failure_is_raised_by_the_next_call(self, backend: Backend, clock: LiveClock) -> None:
        with live(backend, clock=clock) as world:
            with pytest.raises(Crash) as failure:
                world.start(crash, name="crasher")
                world.until(lambda: not world.tasks)
            assert failure.value.__notes__ == ["raised by the task 'crasher'"]
            assert world.call(add, 1, to=2) == 3

    @backends
    def test_several_failures_come_together(self, backend: Backend) -> None:
        with live(backend) as world:
            world.start(crash)
            world.start(crash)
            with pytest.raises(BaseExceptionGroup) as failure:
                world.settle()
            assert [type(one) for one in failure.value.exceptions] == [Crash, Crash]

    @backends
    def test_a_failure_at_the_end_is_raised_too(self, backend: Backend) -> None:
        async def cannot_stop() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise Crash

        with pytest.raises(Crash), live(backend) as world:
            world.start(cannot_stop)
            world.settle()

    @backends
    @clocks
    def test_cancelling_one(self, backend: Backend, clock: LiveClock) -> None:
        with live(backend, clock=clock) as world:
            one, other = (world.start(anyio.sleep_forever, name=name) for name in ("a", "b"))
            one.cancel()
            world.until(lambda: not one.is_running)
            assert [task.name for task in world.tasks] == ["b"]
            assert repr(other) == "<LiveTask 'b', running>"

    @backends
    @clocks
    def test_the_end_of_the_block_ends_tasks_then_what_was_entered(
        self, backend: Backend, clock: LiveClock
    ) -> None:
        ended: list[str] = []

        @asynccontextmanager
        async def entered(name: str) -> AsyncGenerator[str]:
            await anyio.lowlevel.checkpoint()
            try:
                yield name
            finally:
                ended.append(name)

        async def sleep() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("task")

        with live(backend, clock=clock) as world:
            assert world.enter(entered("outer")) == "outer"
            world.enter(entered("inner"))
            world.start(sleep)
            world.advance(0.01)
        assert ended == ["task", "inner", "outer"]
        with pytest.raises(RuntimeError, match="the world has ended"):
            world.call(add, 1, to=2)

    @backends
    def test_a_schedule_says_who_goes_first(self, backend: Backend) -> None:
        def order(schedule: tuple[int, ...]) -> list[str]:
            went: list[str] = []

            async def walk(name: str) -> None:
                went.append(name)
                await anyio.lowlevel.checkpoint()
                went.append(name)

            with live(backend, schedule=schedule) as world:
                world.start(walk, "a")
                world.start(walk, "b")
                world.settle()
            return went

        assert order(()) == ["a", "a", "b", "b"]
        assert {tuple(order((first, second))) for first in (0, 1) for second in (0, 1)} >= {
            ("a", "a", "b", "b"),
            ("a", "b", "b", "a"),
            ("b", "b", "a", "a"),
        }


class TestLimits:
    @backends
    def test_a_livelock_ends_the_world(self, backend: Backend) -> None:
        async def spin() -> None:
            while True:
                await anyio.lowlevel.checkpoint()

        with pytest.raises(Livelock), live(backend, max_steps=1000) as world:
            world.start(spin)
            world.settle()

    @backends
    def test_threads_are_refused_on_the_virtual_clock_only(self, backend: Backend) -> None:
        with live(backend, clock="real") as world:
            assert world.call(anyio.to_thread.run_sync, lambda: 1) == 1
        with live(backend, threads="inline") as world:
            assert world.call(lambda: anyio.to_thread.run_sync(lambda: 1)) == 1
        with pytest.raises(ThreadRefused), live(backend) as world:
            world.call(lambda: anyio.to_thread.run_sync(lambda: 1))

    def test_arguments_that_cannot_be(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"clock": "sand"},
            {"clock": "real", "schedule": (1,)},
            {"backend": "curio"},
        ]
        for arguments in wrong:
            with pytest.raises(ValueError, match=r"clock|backend"), live(**arguments):
                pass
        with live() as world, pytest.raises(ValueError, match="forward"):
            world.advance(-1)

    async def test_an_event_loop_is_no_place_for_it(self) -> None:
        with pytest.raises(RuntimeError, match="synchronous test"), live():
            pass
        await anyio.lowlevel.checkpoint()

    @backends
    def test_the_error_of_the_block_comes_out(self, backend: Backend) -> None:
        with pytest.raises(KeyError), live(backend) as world:
            world.start(anyio.sleep_forever)
            raise KeyError


@backends
def test_a_worker(backend: Backend) -> None:
    """What a user does with it: enqueue, let time pass, look."""
    with live(backend) as world:
        sent: list[bytes | None] = []
        pgq = PgQueuer.in_memory()

        @pgq.entrypoint("mail")
        async def mail(job: Job) -> None:
            await anyio.sleep(3)
            sent.append(job.payload)

        world.start(pgq.run, name="worker", handle_signals=False)
        world.call(pgq.queries.enqueue, "mail", b"ann", execute_after=60)
        world.advance(60)
        assert [size.status for size in world.call(pgq.queries.queue_size)] == ["picked"]
        world.advance(3)
        assert sent == [b"ann"]
        assert world.call(pgq.queries.queue_size) == []


@backends
def test_a_worker_on_postgres(backend: Backend, installed_dsn: str) -> None:
    with live(backend, clock="real") as world:
        sent: list[bytes | None] = []
        pgq = world.enter(PgQueuer.open(installed_dsn))

        @pgq.entrypoint("mail")
        async def mail(job: Job) -> None:
            await anyio.lowlevel.checkpoint()
            sent.append(job.payload)

        world.start(pgq.run, name="worker", handle_signals=False)
        world.call(pgq.queries.enqueue, "mail", b"ann")
        world.until(lambda: sent == [b"ann"])


@backends
def test_a_state_machine(backend: Backend) -> None:
    """The same programs do the same each time, or Hypothesis would call it flaky."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.manager = live(backend)
            self.world = self.manager.__enter__()
            self.added = 0

        async def add_later(self) -> None:
            await anyio.sleep(2)
            self.added += 1

        @rule()
        def start(self) -> None:
            self.world.start(self.add_later)

        @rule(seconds=st.integers(0, 3))
        def wait(self, seconds: int) -> None:
            self.world.advance(seconds)
            assert self.added < 2, "two"

        def teardown(self) -> None:
            self.manager.__exit__(None, None, None)

    with pytest.raises(AssertionError, match="two"):
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=200, deadline=None, database=None)
        )


def test_worlds_that_end_in_another_order_leave_threads_as_they_were() -> None:
    before = anyio.to_thread.run_sync, trio.to_thread.run_sync, memory_clock.wall_time

    async def in_a_thread() -> int:
        return await anyio.to_thread.run_sync(lambda: 1)

    first, second = live("trio"), live("trio")
    first.__enter__()
    second.__enter__()
    assert anyio.run(in_a_thread) == 1  # only the worlds have none
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    after = anyio.to_thread.run_sync, trio.to_thread.run_sync, memory_clock.wall_time
    assert after == before


def test_a_world_whose_test_was_interrupted_in_a_call_has_ended_when_it_is_left() -> None:
    with pytest.raises(KeyboardInterrupt), live("trio", clock="real") as world:
        world._take_reply = _interrupted  # type: ignore[method-assign]  # as Ctrl-C would
        try:
            world.call(anyio.lowlevel.checkpoint)
        finally:
            del world._take_reply  # the class has it
    assert not world._thread.is_alive()


def _interrupted() -> None:
    raise KeyboardInterrupt
