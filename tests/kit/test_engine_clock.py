"""Runs that get stuck say who waits where; the clock jumps when nobody can run, in order."""

from __future__ import annotations

import re
from typing import Self

import anyio
import anyio.lowlevel
import pytest

from pgq_trio import Job, PgQueuer
from pgq_trio.testing import Backend, Deadlock, Livelock, drain, simulate
from tests.kit.engine_worlds import backends


def without_lines(failure: pytest.ExceptionInfo[AssertionError]) -> list[str]:
    """Return what was told, without files and numbers of lines."""
    return [re.sub(r" \(\w+\.py:\d+\)$", "", line) for line in str(failure.value).splitlines()]


class Numbers:
    """An iterator that never has anything."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        await anyio.sleep_forever()
        raise AssertionError


class TestStuck:
    @backends
    def test_a_deadlock_names_the_tasks_and_where_each_waits(self, backend: Backend) -> None:
        lock = anyio.Lock()
        numbers = Numbers()

        async def consume() -> None:
            async for _ in numbers:
                pass

        async def hold(event: anyio.Event) -> None:
            async with lock:
                await event.wait()

        async def want() -> None:
            async with lock:
                pass

        async def scenario() -> None:
            event = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, name="consumer")
                tasks.start_soon(hold, event, name="holder")
                tasks.start_soon(want, name="second")
                tasks.start_soon(event.wait, name="third")

        with pytest.raises(Deadlock) as failure:
            simulate(scenario, backend=backend).check()
        assert without_lines(failure) == [
            "all tasks wait, and nothing will wake them:",
            "- main at `async with anyio.create_task_group() as tasks`",
            "- consumer at `await anyio.sleep_forever()`",
            "- holder at `await event.wait()`",
            "- second at `async with lock`",
            "- third at Event.wait",
        ]

    @backends
    def test_the_line_is_one_of_this_file(self, backend: Backend) -> None:
        async def scenario() -> None:
            await anyio.sleep_forever()

        with pytest.raises(Deadlock) as failure:
            simulate(scenario, backend=backend).check()
        line = scenario.__code__.co_firstlineno + 1
        assert str(failure.value).endswith(f"forever()` (test_engine_clock.py:{line})")

    @backends
    def test_a_deadlock_under_shields_ends_too(self, backend: Backend) -> None:
        async def wait() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, name="left")
                tasks.start_soon(wait, name="right")
                try:
                    await anyio.sleep_forever()
                finally:
                    await wait()

        with pytest.raises(Deadlock, match=r"main(.|\n)*left(.|\n)*right"):
            simulate(scenario, backend=backend).check()

    @backends
    def test_who_sleeps_for_ever_is_stuck_whatever_the_others_wait_for(
        self, backend: Backend
    ) -> None:
        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever, name="sleeper")
                with anyio.move_on_after(86_400 * 3):
                    await anyio.Event().wait()

        with pytest.raises(Deadlock, match="- sleeper at "):
            simulate(scenario, backend=backend).check()

    @backends
    def test_a_worker_that_waits_for_ever_is_told_by_its_own_lines(self, backend: Backend) -> None:
        pgq = PgQueuer.in_memory()

        @pgq.entrypoint("work")
        async def work(_job: Job) -> None:
            await anyio.sleep_forever()

        async def scenario() -> None:
            await pgq.queries.enqueue("work")
            await drain(pgq)

        # Heartbeats go on for ever, so that it is no deadlock.
        with pytest.raises(Livelock) as failure:
            simulate(scenario, backend=backend, max_steps=2000).check()
        places = without_lines(failure)
        assert "- job runner 1 at `await anyio.sleep_forever()`" in places
        assert any(place.startswith("- heartbeat at `await ") for place in places)

    @backends
    def test_a_livelock_names_the_tasks_and_where_each_is(self, backend: Backend) -> None:
        async def spin() -> None:
            while True:
                await anyio.lowlevel.checkpoint()

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(spin, name="spinner")
                tasks.start_soon(anyio.sleep_forever, name="sleeper")

        with pytest.raises(Livelock) as failure:
            simulate(scenario, backend=backend, max_steps=500).check()
        assert without_lines(failure) == [
            "more than 500 steps; the last were of spinner; where all are:",
            "- main at `async with anyio.create_task_group() as tasks`",
            "- spinner at `await anyio.lowlevel.checkpoint()`",
            "- sleeper at sleep_forever",
        ]

    @backends
    def test_waiting_for_another_by_checkpoints_alone_ends(self, backend: Backend) -> None:
        async def scenario() -> None:
            done: list[bool] = []

            async def wait() -> None:
                while not done:
                    await anyio.lowlevel.checkpoint()

            async def finish() -> None:
                done.append(True)
                await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, name="wait")
                tasks.start_soon(finish, name="finish")

        simulate(scenario, backend=backend).check()


class TestClock:
    @backends
    def test_thirty_days_pass_in_no_time(self, backend: Backend) -> None:
        async def scenario() -> float:
            began = anyio.current_time()
            await anyio.sleep(30 * 86_400)
            return anyio.current_time() - began

        assert simulate(scenario, backend=backend).check() == pytest.approx(30 * 86_400)

    @pytest.mark.parametrize("far", [86_400.5, 1e7, 1e9, 1e15, 1e300])
    @backends
    def test_one_jump_however_far(self, backend: Backend, far: float) -> None:
        async def scenario() -> float:
            began = anyio.current_time()
            with anyio.move_on_after(far):
                await anyio.Event().wait()
            passed = anyio.current_time() - began
            # From there a short time may be less than what a number can tell.
            await anyio.sleep(0.001)
            await anyio.sleep(60)
            return passed

        assert simulate(scenario, backend=backend, max_steps=20).check() == pytest.approx(far)

    @backends
    def test_timeouts_come_in_their_order(self, backend: Backend) -> None:
        async def scenario() -> list[int]:
            woken: list[int] = []

            async def sleep(seconds: int) -> None:
                await anyio.sleep(seconds)
                woken.append(seconds)

            async with anyio.create_task_group() as tasks:
                for seconds in (3, 1, 2):
                    tasks.start_soon(sleep, seconds, name=f"{seconds} s")
            return woken

        assert simulate(scenario, backend=backend).check() == [1, 2, 3]

    @backends
    def test_it_jumps_only_when_nobody_can_run(self, backend: Backend) -> None:
        async def scenario() -> list[float]:
            times: list[float] = []
            began = anyio.current_time()

            async def work() -> None:
                for _ in range(50):
                    await anyio.lowlevel.checkpoint()
                times.append(anyio.current_time() - began)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 0.001, name="sleeper")
                tasks.start_soon(work, name="worker")
            return [*times, anyio.current_time() - began]

        assert simulate(scenario, backend=backend).check() == [0, pytest.approx(0.001)]

    @backends
    def test_equal_deadlines_wake_in_the_order_of_starts(self, backend: Backend) -> None:
        names = [f"task {number:02}" for number in range(20)]
        woken: list[str] = []

        async def sleep(name: str, until: float) -> None:
            await anyio.sleep_until(until)
            woken.append(name)

        async def scenario() -> None:
            until = anyio.current_time() + 1
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(sleep, name, until, name=name)

        simulate(scenario, backend=backend).check()
        # Who ran last goes on; the others wake in the order in which they were started.
        assert woken == [names[-1], *names[:-1]]
