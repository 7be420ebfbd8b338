"""Hypothesis strategies: interleavings, faults, jobs, payloads and schedules."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

from hypothesis import strategies as st

from pgq_trio.testing.simulation import Fault

__all__ = ["faults", "headers", "interleavings", "jobs", "payloads", "schedules"]

#: Arguments of `Queries.enqueue` for one job.
JobArguments: TypeAlias = dict[str, Any]


#: How long the stretch of a run is in which tasks are preempted, in decisions; most faults show
#: in a short one, which has far fewer schedules than a long one.
_STRETCHES = (4, 8, 16, 32, 64, 128, 256)

#: Decisions in a row that are drawn one by one.
_LONGEST_WALK = 16


def interleavings(
    tasks: int = 2, *, decisions: int = 40, preemptions: int = 8, swarm: bool = False
) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw schedules for `simulate`, which shrink towards fewer and earlier preemptions.

    With `swarm` each example varies some features only ("swarm testing", Groce and others, 2012):
    in which stretch of the run tasks are preempted, by how many of the others, and how: a number
    of times, for so many decisions in a row, so that a task starves, or at random. That finds deep
    faults sooner and shallow ones later, and leaves more preemptions that do no harm. Runs until a
    planted fault was found (medians of 15 seeds, `python -m benchmarks.schedules`), without and
    with it: one preemption 27 and 31, two 165 and 99, three 637 and 87, four more than 1000 and 54.
    Three that have to hit one order of three tasks both find in 3 of 15 times 1000 runs only, and
    without it a fault late in the run is not found at all.

    Args:
        tasks: how many tasks can run at once, about; a number that is too low leaves out
            schedules, one that is too high costs nothing but examples.
        decisions: among the first so many decisions preemptions are drawn; more for long runs.
        preemptions: how many there are at most, with `swarm` unless they come in rows; most faults
            need one or two.
        swarm: whether to look for faults that need more.

    Raises:
        ValueError: fewer than two tasks, no decision or no preemption.
    """
    if tasks < 2 or decisions < 1 or preemptions < 1:
        raise ValueError(
            "two tasks, one decision and one preemption at least, got "
            f"{tasks}, {decisions} and {preemptions}"
        )
    return (_swarm if swarm else _few)(tasks, decisions, preemptions)


@st.composite
def _few(draw: st.DrawFn, tasks: int, decisions: int, preemptions: int) -> tuple[int, ...]:
    # Places and picks, not a list of picks: that would be drawn short and shrink by its length.
    preemption = st.tuples(st.integers(0, decisions - 1), st.integers(1, tasks - 1))
    drawn = draw(st.lists(preemption, max_size=preemptions, unique_by=operator.itemgetter(0)))
    picks = dict(drawn)
    return tuple(picks.get(place, 0) for place in range(max(picks, default=-1) + 1))


@st.composite
def _swarm(draw: st.DrawFn, tasks: int, decisions: int, preemptions: int) -> tuple[int, ...]:
    how = draw(st.sampled_from(["few", "few", "rows", "walk"]))
    length = draw(st.sampled_from([*(x for x in _STRETCHES if x < decisions), decisions]))
    start = draw(st.just(0) | st.integers(0, decisions - length))
    pick = st.integers(1, draw(st.integers(1, tasks - 1)))
    if how == "walk":
        size = min(length, _LONGEST_WALK)
        return (0,) * start + tuple(draw(st.lists(st.just(0) | pick, min_size=size, max_size=size)))
    place = st.integers(start, start + length - 1)
    if how == "rows":
        rows = st.lists(st.tuples(place, pick, st.integers(1, length)), min_size=1, max_size=3)
        picks: dict[int, int] = {}
        for first, picked, times in draw(rows):
            picks |= dict.fromkeys(range(first, min(first + times, decisions)), picked)
    else:
        count = draw(st.integers(1, min(preemptions, length)))
        preemption = st.tuples(place, pick)
        by_place = operator.itemgetter(0)
        picks = dict(draw(st.lists(preemption, min_size=1, max_size=count, unique_by=by_place)))
    return tuple(picks.get(place, 0) for place in range(max(picks) + 1))


def faults(*, steps: int = 60, count: int = 1, minimum: int = 0) -> st.SearchStrategy[list[Fault]]:
    """Draw cancellations of the run, `minimum` to `count`, each at one of its first `steps` steps.

    Raises:
        ValueError: no step, or fewer at most than at least.
    """
    if steps < 1 or not 0 <= minimum <= count:
        raise ValueError(
            f"steps is 1 or more and minimum from 0 to count, got {steps}, {minimum} and {count}"
        )
    fault = st.builds(Fault, step=st.integers(1, steps), moment=st.sampled_from(_MOMENTS))
    # Mapped, since a list of one element at most fails an assertion of Hypothesis 6.170 when it is
    # filtered by `bool`: that raises the least size and leaves the average below it. Hypothesis
    # looks through `.map(list)`, not through a function that it does not know.
    return st.lists(fault, min_size=minimum, max_size=count).map(lambda drawn: [*drawn])


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
