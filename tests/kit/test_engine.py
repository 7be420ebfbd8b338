"""The engine of the test kit: it finds planted faults, on both loops, and says how to see them.

These are sync tests: a simulation has an event loop of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import comb
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis.errors import NoSuchExample

from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Deadlock,
    Fault,
    Livelock,
    Moment,
    Simulation,
    ThreadRefused,
    cancel_everywhere,
    explore,
    interleavings,
    on_trio,
    simulate,
)

backends = pytest.mark.parametrize("backend", BACKENDS)


class Counter:
    """What two tasks add to."""

    def __init__(self) -> None:
        self.value = 0

    async def add_with_a_gap(self) -> None:
        value = self.value
        await anyio.lowlevel.checkpoint()
        self.value = value + 1

    async def add(self) -> None:
        self.value += 1
        await anyio.lowlevel.checkpoint()


def twice(method: str) -> Callable[[Counter], Awaitable[None]]:
    async def scenario(counter: Counter) -> None:
        async with anyio.create_task_group() as tasks:
            for name in ("a", "b"):
                tasks.start_soon(getattr(counter, method), name=name)

    return scenario


def both_counted(counter: Counter, _simulation: Simulation[None]) -> None:
    assert counter.value == 2


async def walkers(*lengths: int) -> None:
    async def walk(length: int) -> None:
        for _ in range(length):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for place, length in enumerate(lengths):
            tasks.start_soon(walk, length, name="abc"[place])


class TestExplore:
    @backends
    def test_a_lost_update_is_found_and_told(self, backend: Backend) -> None:
        with pytest.raises(AssertionError) as failure:
            explore(twice("add_with_a_gap"), make=Counter, check=both_counted, backend=backend)
        notes = "\n".join(failure.value.__notes__)
        assert f"simulate(scenario, schedule=(0, 1), backend={backend!r})" in notes
        assert "the tasks went: main, a, b x2, a, main" in notes

    @backends
    def test_what_it_tells_can_be_seen_again(self, backend: Backend) -> None:
        counter = Counter()
        simulate(twice("add_with_a_gap"), counter, schedule=(0, 1), backend=backend).check()
        assert counter.value == 1

    @backends
    def test_without_the_fault_all_schedules_pass(self, backend: Backend) -> None:
        runs = explore(
            twice("add"), make=Counter, check=both_counted, backend=backend, preemptions=None
        )
        assert runs == comb(4, 2)

    @backends
    def test_the_canary_two_tasks_of_three_checkpoints(self, backend: Backend) -> None:
        seen: set[str] = set()

        def note(simulation: Simulation[None]) -> None:
            seen.add("".join(name for name in simulation.trace if name != "main"))

        async def scenario() -> None:
            await walkers(3, 3)

        runs = explore(scenario, check=note, backend=backend, preemptions=None)
        assert runs == len(seen) == comb(8, 4)

    @backends
    def test_a_bound_on_preemptions(self, backend: Backend) -> None:
        async def scenario() -> None:
            await walkers(3, 3, 3)

        def check(simulation: Simulation[None]) -> None:
            assert sum(pick > 0 for pick in simulation.picks) <= 1

        few = explore(scenario, check=check, backend=backend, preemptions=1)
        assert 1 < few < explore(scenario, backend=backend, preemptions=2)

    @backends
    def test_more_schedules_than_the_limit(self, backend: Backend) -> None:
        with pytest.raises(AssertionError, match="more than 5 schedules; lower `preemptions`"):
            explore(walkers_of_three, backend=backend, limit=5)


async def walkers_of_three() -> None:
    await walkers(3, 3)


@backends
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedule=interleavings(tasks=3))
def test_every_schedule_ends_and_repeats_itself(
    backend: Backend, schedule: tuple[int, ...]
) -> None:
    async def scenario() -> None:
        await walkers(3, 2, 3)

    first = simulate(scenario, schedule=schedule, backend=backend)
    first.check()
    again = simulate(scenario, schedule=first.picks, backend=backend)
    assert again.trace == first.trace


@backends
def test_hypothesis_finds_and_shrinks_a_lost_update(backend: Backend) -> None:
    def loses(schedule: tuple[int, ...]) -> bool:
        counter = Counter()
        simulate(twice("add_with_a_gap"), counter, schedule=schedule, backend=backend).check()
        return counter.value == 1

    assert find(interleavings(), loses) == (0, 1)


@backends
def test_tasks_that_a_scope_cancels_go_in_the_order_of_their_starts(backend: Backend) -> None:
    # AnyIO takes them from a set, so that without this the same schedule would be another run in
    # the next process.
    names = [f"task {number:02}" for number in range(20)]

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(anyio.sleep_forever, name=name)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    simulation = simulate(scenario, backend=backend)
    simulation.check()
    assert [name for name in simulation.trace if name != "main"] == names * 2


class TestCancelEverywhere:
    @pytest.mark.parametrize("moment", ["before", "in flight"])
    @backends
    def test_a_checkpoint_between_acquire_and_try(self, backend: Backend, moment: Moment) -> None:
        async def scenario(held: list[str]) -> None:
            held.append("lock")
            await anyio.lowlevel.checkpoint()
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                held.remove("lock")

        def is_free(held: list[str], _simulation: Simulation[None]) -> None:
            assert not held

        with pytest.raises(AssertionError) as failure:
            cancel_everywhere(scenario, make=list, check=is_free, backend=backend, moments=[moment])
        assert any("one of task 'main'" in note for note in failure.value.__notes__)

    @backends
    def test_an_await_in_finally_without_a_shield(self, backend: Backend) -> None:
        def scenario(shield: bool) -> Callable[[list[str]], Awaitable[None]]:
            async def run(done: list[str]) -> None:
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    with anyio.CancelScope(shield=shield):
                        await anyio.lowlevel.checkpoint()
                        done.append("cleanup")

            return run

        def cleaned(done: list[str], simulation: Simulation[None]) -> None:
            assert done == ["cleanup"]

        counts = cancel_everywhere(scenario(True), make=list, check=cleaned, backend=backend)
        assert counts.keys() == {"before", "in flight"}
        assert min(counts.values()) >= 3
        with pytest.raises(AssertionError):
            cancel_everywhere(scenario(False), make=list, check=cleaned, backend=backend)

    @backends
    def test_each_step_is_reached(self, backend: Backend) -> None:
        steps = simulate(walkers_of_three, backend=backend).steps
        counts = cancel_everywhere(walkers_of_three, backend=backend)
        assert counts == {"before": steps, "in flight": steps}

    @backends
    def test_a_scenario_that_never_ends(self, backend: Backend) -> None:
        async def swallows() -> None:
            for _ in range(50):
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()

        with pytest.raises(AssertionError, match="did not end within 10 steps"):
            cancel_everywhere(swallows, backend=backend, limit=10)


class TestStuck:
    @backends
    def test_a_deadlock_names_the_tasks(self, backend: Backend) -> None:
        async def scenario() -> None:
            event = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(event.wait, name="left")
                tasks.start_soon(event.wait, name="right")

        with pytest.raises(Deadlock, match=r"left, .*right"):
            simulate(scenario, backend=backend).check()

    @backends
    def test_a_livelock_names_the_tasks(self, backend: Backend) -> None:
        async def spin() -> None:
            while True:
                await anyio.lowlevel.checkpoint()

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(spin, name="spinner")
                tasks.start_soon(anyio.sleep_forever, name="sleeper")

        with pytest.raises(Livelock, match="more than 500 steps; the last were of spinner"):
            simulate(scenario, backend=backend, max_steps=500).check()

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


class TestFaults:
    @backends
    def test_an_action_at_a_step(self, backend: Backend) -> None:
        seen: list[int] = []
        fault = Fault(2, "before", lambda simulation: seen.append(simulation.steps))
        simulate(walkers_of_three, backend=backend, faults=[fault]).check()
        assert seen == [2]

    @backends
    def test_an_action_that_raises_fails_the_run(self, backend: Backend) -> None:
        def fail(_simulation: Simulation[Any]) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            simulate(walkers_of_three, backend=backend, faults=[Fault(1, action=fail)]).check()

    @backends
    def test_what_a_scenario_raises_comes_out_as_itself(self, backend: Backend) -> None:
        async def scenario() -> None:
            await anyio.lowlevel.checkpoint()
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine") as failure:
            simulate(scenario, backend=backend).check()
        assert "to see it again" in failure.value.__notes__[0]


class TestThreads:
    @backends
    def test_refused(self, backend: Backend) -> None:
        with pytest.raises(ThreadRefused, match="pass threads='inline'"):
            simulate(in_a_thread, backend=backend).check()

    @backends
    def test_as_one_step(self, backend: Backend) -> None:
        assert simulate(in_a_thread, backend=backend, threads="inline").check() == 42

    def test_are_real_again_afterwards(self) -> None:
        simulate(in_a_thread, threads="inline").check()
        assert anyio.run(in_a_thread) == 42


async def in_a_thread() -> int:
    return await anyio.to_thread.run_sync(lambda: 42)


class TestWithoutControl:
    """Another release of Trio, whose run queue is not found: delays instead of decisions."""

    @pytest.fixture(autouse=True)
    def _not_controllable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(on_trio, "is_controllable", lambda: False)

    def test_the_lost_update_is_found(self) -> None:
        def loses(schedule: tuple[int, ...]) -> bool:
            counter = Counter()
            simulate(staggered, counter, schedule=schedule).check()
            return counter.value == 1

        assert find(interleavings(tasks=4), loses)

    def test_and_not_where_there_is_none(self) -> None:
        def loses(schedule: tuple[int, ...]) -> bool:
            counter = Counter()
            simulate(twice("add"), counter, schedule=schedule).check()
            return counter.value != 2

        with pytest.raises(NoSuchExample):
            find(interleavings(tasks=4), loses, settings=settings(max_examples=50, database=None))


async def staggered(counter: Counter) -> None:
    """Lose an update only if the second task comes late enough to meet the first."""

    async def second() -> None:
        await anyio.sleep(1.5)
        await counter.add_with_a_gap()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(counter.add_with_a_gap, name="first")
        tasks.start_soon(second, name="second")


def test_trio_is_controllable() -> None:
    assert on_trio.is_controllable()


def test_a_run_queue_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio, "_runner", lambda: None)
    on_trio.is_controllable.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="run queue of Trio .* is not where it was"):
            assert not on_trio.is_controllable()
    finally:
        on_trio.is_controllable.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "curio"}, "backend is one of trio, asyncio, got 'curio'"),
        ({"policy": "random"}, "policy is 'stay' or 'rotate'"),
        ({"schedule": (0, -1)}, "numbers from 0 on"),
        ({"threads": "real"}, "threads is 'refuse' or 'inline'"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(walkers_of_three, **arguments)
