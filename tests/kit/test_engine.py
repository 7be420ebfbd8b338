"""The engine of the test kit finds planted faults, on both loops.

These are sync tests: a simulation has an event loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings, strategies as st

from pgq_trio.testing import (
    BACKENDS,
    Backend,
    Fault,
    Simulation,
    cancel_everywhere,
    explore,
    faults,
    interleavings,
    simulate,
)
from tests.kit.deep_faults import DEEP_FAULTS, DeepFault
from tests.kit.engine_worlds import (
    Counter,
    backends,
    both_counted,
    twice,
    walkers,
    walkers_of_three,
)

#: The others are one of a hundred schedules or rarer, and left to the benchmark.
SOON_FOUND = [fault for fault in DEEP_FAULTS if fault.is_soon_found]


def strikes_on(fault: DeepFault, backend: Backend) -> Callable[[tuple[int, ...]], bool]:
    return lambda schedule: simulate(fault.strikes, schedule=schedule, backend=backend).check()


def orders(left: tuple[int, ...], preemptions: int, can_go_on: bool = False) -> int:
    """Count in how many orders tasks of so many steps can go, preempted so often.

    They stand in a queue; who has made a step goes to its end, from where it may go on.
    """
    if not left:
        return 1
    count = 0
    for place, steps in enumerate(left):
        is_preemption = place != (len(left) - 1 if can_go_on else 0)
        if preemptions >= is_preemption:
            queue = (*left[:place], *left[place + 1 :], *([steps - 1] if steps > 1 else []))
            count += orders(queue, preemptions - is_preemption, steps > 1)
    return count


class TestExplore:
    @backends
    def test_a_lost_update_is_found(self, backend: Backend) -> None:
        with pytest.raises(AssertionError) as failure:
            explore(twice("add_with_a_gap"), make=Counter, check=both_counted, backend=backend)
        (note,) = failure.value.__notes__
        assert "schedule=(0, 1)" in note
        assert "the tasks went: main, a, b x2, a, main" in note

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
        assert few == orders((4, 4, 4), 1) == 13
        assert explore(scenario, backend=backend, preemptions=2) == orders((4, 4, 4), 2) == 105

    @backends
    def test_more_schedules_than_the_limit(self, backend: Backend) -> None:
        with pytest.raises(AssertionError, match="more than 5 schedules; lower `preemptions`"):
            explore(walkers_of_three, backend=backend, limit=5)


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


class TestInterleavings:
    @settings(deadline=None)
    @given(
        data=st.data(),
        tasks=st.integers(2, 6),
        decisions=st.integers(1, 300),
        preemptions=st.integers(1, 9),
        swarm=st.booleans(),
    )
    def test_are_within_their_bounds(
        self, data: st.DataObject, tasks: int, decisions: int, preemptions: int, swarm: bool
    ) -> None:
        drawn = interleavings(
            tasks=tasks, decisions=decisions, preemptions=preemptions, swarm=swarm
        )
        schedule = data.draw(drawn)
        assert len(schedule) <= decisions
        assert set(schedule) <= set(range(tasks))

    @pytest.mark.parametrize("fault", DEEP_FAULTS, ids=lambda fault: fault.name)
    def test_do_not_strike_without_them(self, fault: DeepFault) -> None:
        for backend in BACKENDS:
            assert not simulate(fault.strikes, backend=backend).check()

    @pytest.mark.parametrize("fault", SOON_FOUND, ids=lambda fault: fault.name)
    @backends
    def test_find_deep_faults(self, backend: Backend, fault: DeepFault) -> None:
        search = settings(
            max_examples=3000,
            database=None,
            derandomize=True,
            deadline=None,
            phases=[Phase.generate],
        )
        assert find(
            interleavings(tasks=fault.tasks, swarm=True),
            strikes_on(fault, backend),
            settings=search,
        )


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


class TestDrawnFaults:
    @settings(deadline=None)
    @given(few=faults(steps=80).filter(bool), some=faults(count=3, minimum=2))
    def test_at_least_some(self, few: list[Fault], some: list[Fault]) -> None:
        assert len(few) == 1
        assert 2 <= len(some) <= 3

    @pytest.mark.parametrize("given", [{"minimum": 2}, {"minimum": -1}, {"steps": 0}])
    def test_that_cannot_be(self, given: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="minimum from 0 to count"):
            faults(**given)


@pytest.mark.parametrize("run", [simulate, explore, cancel_everywhere])
class TestScenario:
    def test_a_call_of_the_function(self, run: Callable[..., object]) -> None:
        """A warning of a coroutine that was never awaited would fail it."""
        with pytest.raises(TypeError, match="pass the function, not a call of it"):
            run(walkers_of_three())

    @backends
    def test_no_async_function(self, run: Callable[..., object], backend: Backend) -> None:
        def scenario() -> int:
            return 42

        with pytest.raises(TypeError, match="scenario returned 42, which cannot be awaited"):
            run(scenario, backend=backend)


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
