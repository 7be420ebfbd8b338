"""What a failure prints is code: pasted, it makes the same run again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given, settings, strategies as st

from pgq_trio.testing import (
    Backend,
    Fault,
    Simulation,
    cancel_everywhere,
    explore,
    simulate,
)
from pgq_trio.testing.replaying import code_of, schedule_code, switches
from tests.kit.engine_worlds import Counter, add_with_a_gap_twice, backends, both_counted


def pasted(error: BaseException, begins: str) -> str:
    """Return the code on the line of an error's last note that begins so."""
    (line,) = [line for line in error.__notes__[-1].splitlines() if line.startswith(begins)]
    return line.removeprefix(begins)


def see_again(error: BaseException) -> Simulation[Any]:
    """Run the code that is to be pasted; what it names is known here."""
    simulation = eval(pasted(error, "to see it again: "), globals())  # noqa: S307
    assert isinstance(simulation, Simulation)
    return simulation


def fail(simulation: Simulation[Any]) -> None:
    raise ZeroDivisionError(simulation.steps)


async def clean_up_unshielded(done: list[str]) -> None:
    try:
        await anyio.lowlevel.checkpoint()
    finally:
        await anyio.lowlevel.checkpoint()
        done.append("cleanup")


def is_clean(done: list[str], _simulation: Simulation[None]) -> None:
    assert done == ["cleanup"]


async def wants_all(number: int, text: str, *more: object) -> None:
    await anyio.lowlevel.checkpoint()
    raise LookupError(number, text, len(more))


@backends
def test_of_explore(backend: Backend) -> None:
    with pytest.raises(AssertionError) as failure:
        explore(add_with_a_gap_twice, make=Counter, check=both_counted, backend=backend)
    again = see_again(failure.value)
    assert pasted(failure.value, "to see it again: ") == (
        f"simulate(add_with_a_gap_twice, Counter(), schedule=(0, 1), backend={backend!r})"
    )
    assert pasted(failure.value, "to pin it, above @given: ") == "@example(schedule=(0, 1))"
    assert again.trace == ["main", "a", "b", "b", "a", "main"]


@backends
def test_of_cancel_everywhere(backend: Backend) -> None:
    with pytest.raises(AssertionError) as failure:
        cancel_everywhere(
            clean_up_unshielded, make=list, check=is_clean, backend=backend, moments=["before"]
        )
    assert pasted(failure.value, "to see it again: ") == (
        f"simulate(clean_up_unshielded, list(), schedule=(), backend={backend!r}, "
        "faults=[Fault(1, 'before')])"
    )
    assert pasted(failure.value, "to pin it, above @given: ") == (
        "@example(schedule=(), faults=[Fault(1, 'before')])"
    )
    assert "cancelled before step 1, one of task 'main'" in failure.value.__notes__[-1]
    assert see_again(failure.value).cancelled


@backends
def test_with_all_that_is_not_as_by_default(backend: Backend) -> None:
    run = simulate(
        wants_all,
        1,
        "two",
        Counter,
        backend=backend,
        schedule=(0, 0),
        policy="rotate",
        faults=[Fault(9, action=fail), Fault(9, "before")],
        threads="inline",
        max_steps=1000,
        seed=7,
    )
    with pytest.raises(LookupError) as failure:
        run.check()
    assert pasted(failure.value, "to see it again: ") == (
        f"simulate(wants_all, 1, 'two', Counter, schedule=(), backend={backend!r}, "
        "faults=[Fault(9, action=fail), Fault(9, 'before')], "
        "policy='rotate', threads='inline', max_steps=1000, seed=7)"
    )
    assert see_again(failure.value).trace == run.trace


def test_the_pin_fits_a_test() -> None:
    seen: list[tuple[int, ...]] = []

    @settings(deadline=None)
    @example(schedule=(*[0] * 50, 1))
    @given(schedule=st.just(()))
    def test(schedule: tuple[int, ...]) -> None:
        seen.append(schedule)

    test()
    assert schedule_code(seen[0]) == "(*[0] * 50, 1)"


def test_a_note_is_made_once() -> None:
    run = simulate(wants_all, 1, "two")
    for _ in range(2):
        with pytest.raises(LookupError) as failure:
            run.check()
    assert len(failure.value.__notes__) == 1


def test_a_run_within_a_check_is_noted_beside_the_one_outside() -> None:
    def check(_simulation: Simulation[None]) -> None:
        simulate(wants_all, 1, "two").check()

    with pytest.raises(LookupError) as failure:
        explore(anyio.lowlevel.checkpoint, check=check)
    inner, outer = failure.value.__notes__
    assert "simulate(wants_all, 1, 'two', schedule=()" in inner
    assert "simulate(checkpoint, schedule=()" in outer


class TestCode:
    @settings(deadline=None)
    @given(st.lists(st.integers(0, 3) | st.just(0), max_size=60))
    def test_of_a_schedule(self, picks: list[int]) -> None:
        assert eval(schedule_code(picks)) == tuple(picks)  # noqa: S307

    @settings(deadline=None)
    @given(
        st.builds(
            Fault,
            step=st.integers(1, 99),
            moment=st.sampled_from(["before", "in flight"]),
            action=st.sampled_from([None, fail]),
        )
    )
    def test_of_a_fault(self, fault: Fault) -> None:
        assert eval(repr(fault)) == fault  # noqa: S307

    @pytest.mark.parametrize(
        ("value", "code"),
        [
            (3, "3"),
            (b"x", "b'x'"),
            ([1, None], "[1, None]"),
            (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
            (Counter, "Counter"),
            (Counter(), "Counter(...)"),
            (Counter().add, "Counter(...).add"),
            (Counter.add, "Counter.add"),
            (partial(wants_all, 1, text="x"), "partial(wants_all, 1, text='x')"),
            (lambda: 1, "..."),
            ({"of": object()}, "dict(...)"),
        ],
    )
    def test_of_a_value(self, value: object, code: str) -> None:
        assert code_of(value) == code

    @pytest.mark.parametrize("length", [90, 1000])
    def test_of_long_values_is_code_still(self, length: int) -> None:
        for value in ("x" * length, b"x" * length, 10**length, ["x" * length] * length):
            code = code_of(value)
            assert len(code) < 1000
            compile(code, "code", "eval")

    def test_of_what_is_defined_in_a_function(self) -> None:
        async def scenario() -> None: ...

        def maker() -> Callable[[], None]:
            def made() -> None: ...

            return made

        assert code_of(scenario) == "scenario"
        assert code_of(maker()) == "made"


def test_switches() -> None:
    assert switches("aabc", 9) == "a x2, b, c"
    assert switches("aabc", 2) == "..., b, c"
