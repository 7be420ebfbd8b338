"""Hypothesis strategies: interleavings, faults, jobs, payloads and schedules."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

from hypothesis import strategies as st

from pgq_trio.testing.simulation import Fault

__all__ = ["faults", "headers", "interleavings", "jobs", "payloads", "schedules"]

#: Arguments of `Queries.enqueue` for one job.
JobArguments: TypeAlias = dict[str, Any]


def interleavings(
    tasks: int = 2, *, decisions: int = 40, preemptions: int = 8
) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw schedules for `simulate`, which shrink towards fewer and earlier preemptions.

    Args:
        tasks: how many tasks can run at once, about; a number that is too low leaves out
            schedules, one that is too high costs nothing but examples.
        decisions: among the first so many decisions preemptions are drawn.
        preemptions: how many there are at most; most faults need one or two.

    Raises:
        ValueError: fewer than two tasks, no decision or no preemption.
    """
    if tasks < 2 or decisions < 1 or preemptions < 1:
        raise ValueError(
            "two tasks, one decision and one preemption at least, got "
            f"{tasks}, {decisions} and {preemptions}"
        )
    return _schedules_with(tasks, decisions, preemptions)


@st.composite
def _schedules_with(
    draw: st.DrawFn, tasks: int, decisions: int, preemptions: int
) -> tuple[int, ...]:
    # Places and picks, not a list of picks: that would be drawn short and shrink by its length.
    preemption = st.tuples(st.integers(0, decisions - 1), st.integers(1, tasks - 1))
    drawn = draw(st.lists(preemption, max_size=preemptions, unique_by=operator.itemgetter(0)))
    picks = dict(drawn)
    return tuple(picks.get(place, 0) for place in range(max(picks, default=-1) + 1))


def faults(*, steps: int = 60, count: int = 1) -> st.SearchStrategy[list[Fault]]:
    """Draw up to `count` cancellations of the run, each at one of its first `steps` steps."""
    fault = st.builds(Fault, step=st.integers(1, steps), moment=st.sampled_from(_MOMENTS))
    return st.lists(fault, max_size=count)


def payloads(*, max_size: int = 64) -> st.SearchStrategy[bytes | None]:
    """Draw payloads: None, empty, bytes of any value."""
    return st.none() | st.binary(max_size=max_size)


def headers() -> st.SearchStrategy[dict[str, Any] | None]:
    """Draw headers: None, or JSON objects that PostgreSQL can store."""
    # NUL and lone surrogates are what jsonb cannot hold.
    text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=10)
    number = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    value = st.recursive(
        st.none() | st.booleans() | number | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=5,
    )
    return st.none() | st.dictionaries(text, value, max_size=3)


def jobs(
    entrypoints: tuple[str, ...] = ("a", "b"),
    *,
    keys: tuple[str, ...] = ("key 1", "key 2"),
    longest_delay: float = 60.0,
) -> st.SearchStrategy[JobArguments]:
    """Draw arguments of `Queries.enqueue` for one job.

    Args:
        entrypoints: the names to choose from.
        keys: the dedupe keys to choose from; most jobs have none.
        longest_delay: of deferred jobs, in seconds.
    """
    delay = st.floats(0, longest_delay, allow_nan=False).map(lambda seconds: round(seconds, 3))
    return st.fixed_dictionaries(
        {"entrypoint": st.sampled_from(entrypoints)},
        optional={
            "payload": payloads(),
            "priority": st.integers(-3, 3),
            "execute_after": delay,
            "dedupe_key": st.sampled_from(keys),
            "headers": headers(),
        },
    )


def schedules() -> st.SearchStrategy[str]:
    """Draw cron expressions, of five fields and of six with the seconds last."""
    minute = st.just("*") | st.integers(0, 59).map(str) | st.integers(1, 30).map("*/{}".format)
    hour = st.just("*") | st.integers(0, 23).map(str)
    day = st.just("*") | st.integers(1, 28).map(str)
    month = st.just("*") | st.integers(1, 12).map(str)
    weekday = st.just("*") | st.integers(0, 6).map(str)
    seconds = st.just("") | st.integers(1, 30).map(" */{}".format) | st.just(" 0,30")
    return st.builds("{} {} {} {} {}{}".format, minute, hour, day, month, weekday, seconds)


_MOMENTS = ("before", "in flight")
