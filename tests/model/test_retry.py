"""Retry policies: how often, how long, for what."""

from __future__ import annotations

import itertools
import math
from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from pgq_trio.abc import RetryPolicy
from pgq_trio.model.retry import Exponential, Fixed, exponential_delay
from tests.model.records import job

ERROR = ConnectionError("no route")


def delays(policy: RetryPolicy) -> list[float]:
    """The waits of a job that fails until there is no next attempt."""
    waits: list[float] = []
    for attempts in itertools.count():
        wait = policy.next_delay(job(attempts=attempts), ERROR)
        if wait is None:
            return waits
        waits.append(wait)
    raise AssertionError


def test_the_wait_doubles_up_to_the_maximum() -> None:
    assert delays(Exponential(max_attempts=6, initial=1, maximum=5, jitter=0)) == [1, 2, 4, 5, 5]


def test_max_attempts_counts_the_first_attempt() -> None:
    assert delays(Exponential(max_attempts=1)) == []
    assert delays(Fixed(3, max_attempts=1)) == []
    assert len(delays(Exponential())) == 4


def test_a_fixed_wait_stays_the_same() -> None:
    assert delays(Fixed(timedelta(minutes=1), max_attempts=4)) == [60, 60, 60]


@pytest.mark.parametrize("policy", [Exponential(on=(OSError,)), Fixed(1, on=(OSError,))])
def test_only_the_named_exceptions_are_retried(policy: RetryPolicy) -> None:
    assert policy.next_delay(job(), ConnectionError()) is not None
    assert policy.next_delay(job(), ValueError()) is None


@given(draw=st.floats(0, 1, exclude_max=True), attempts=st.integers(0, 3))
def test_jitter_stays_within_its_share_and_below_the_maximum(draw: float, attempts: int) -> None:
    policy = Exponential(initial=10, maximum=60, jitter=0.2, random=lambda: draw)
    wait = policy.next_delay(job(attempts=attempts), ERROR)
    plain = min(60, 10 * 2**attempts)
    assert wait is not None
    assert plain * 0.8 <= wait <= min(60, plain * 1.2)


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999999])
def test_jitter_moves_the_wait_both_ways(draw: float) -> None:
    wait = Exponential(initial=10, jitter=0.5, random=lambda: draw).next_delay(job(), ERROR)
    assert wait == pytest.approx(10 * (0.5 + draw))


@pytest.mark.parametrize("attempts", [0, 1, 1000, 10**6])
def test_a_large_number_of_attempts_does_not_overflow(attempts: int) -> None:
    wait = exponential_delay(attempts, initial=1, maximum=300, multiplier=2)
    assert wait == min(300, 2.0 ** min(attempts, 10))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_attempts": 0}, "max_attempts counts the first attempt"),
        ({"initial": -1}, "initial must be at least 0 s"),
        ({"maximum": math.nan}, "maximum must be at least 0 s"),
        ({"maximum": math.inf}, "maximum must be at most"),
        ({"multiplier": 0.5}, "multiplier must be from 1"),
        ({"multiplier": math.nan}, "multiplier must be from 1"),
        ({"jitter": 1.5}, "jitter must be from 0 to 1"),
        ({"on": ()}, "on is empty"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Exponential(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [{"max_attempts": 2.5}, {"initial": "1"}, {"jitter": None}, {"on": (KeyboardInterrupt,)}],
)
def test_arguments_of_the_wrong_type_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Exponential(**arguments)  # type: ignore[arg-type]


def test_a_fixed_policy_checks_its_arguments_too() -> None:
    with pytest.raises(ValueError, match="delay must be at least"):
        Fixed(-1)
    with pytest.raises(ValueError, match="delay must be at most"):
        Fixed(math.inf)
    with pytest.raises(TypeError, match="whole number"):
        Fixed(1, max_attempts=True)


def test_one_exception_class_may_stand_alone() -> None:
    assert Fixed(1, on=ValueError).next_delay(job(), ValueError()) == 1  # type: ignore[arg-type]
