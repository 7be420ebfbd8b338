"""Ways to draw schedules: both that ship, and others that are measured against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from hypothesis import strategies as st

from pgq_trio.testing import interleavings
from pgq_trio.testing.decisions import PATIENCE, Decision, Decisions, Policy

#: Draws a schedule for so many tasks; `Priorities` or numbers.
Rival: TypeAlias = Callable[[int], st.SearchStrategy[Any]]

#: Of a rival's schedules, in decisions.
LENGTH = 120

#: Ranks of who has fallen behind begin here.
_BEHIND = 1000


class Priorities(NamedTuple):
    """A schedule after Burckhardt and others, "A Randomized Scheduler", 2010.

    Attributes:
        ranks: of the tasks in the order in which they are first seen; the lowest goes first.
        changes: decisions at which who would go falls behind all others.
    """

    ranks: tuple[int, ...]
    changes: tuple[int, ...]


class ByPriority(Decisions[Any]):
    """Decides by priorities."""

    def __init__(self, schedule: Priorities) -> None:
        super().__init__()
        self._priorities = schedule
        self._rank: dict[Any, int] = {}

    def choose(self, runnable: Sequence[Any]) -> Any:
        """Return the runnable task of the highest priority."""
        for task in runnable:
            ranks = self._priorities.ranks
            self._rank.setdefault(task, ranks[len(self._rank) % len(ranks)])
        chosen = min(runnable, key=self._rank.__getitem__)
        if len(runnable) > 1:
            if len(self.taken) in self._priorities.changes or self._streak >= PATIENCE:
                self._rank[chosen] = _BEHIND + len(self.taken)
                chosen = min(runnable, key=self._rank.__getitem__)
            self.taken.append(Decision(len(runnable), runnable.index(chosen)))
        self._streak = self._streak + 1 if chosen is self._last else 1
        self._last = chosen
        return chosen


def decisions_of(schedule: Any, *, policy: Policy = "stay") -> Decisions[Any]:
    """Make the decisions of a run, for each kind of schedule."""
    if isinstance(schedule, Priorities):
        return ByPriority(schedule)
    return Decisions(schedule, policy=policy)


@st.composite
def priorities(draw: st.DrawFn, tasks: int) -> Priorities:
    """Ranks in any order, and up to three moments at which they change."""
    ranks = draw(st.permutations(range(tasks + 1)))
    changes = draw(st.lists(st.integers(0, LENGTH - 1), max_size=3))
    return Priorities(tuple(ranks), tuple(changes))


def walk(tasks: int) -> st.SearchStrategy[tuple[int, ...]]:
    """At each decision any task."""
    return st.lists(st.integers(0, tasks - 1), max_size=LENGTH).map(tuple)


def nothing(_tasks: int) -> st.SearchStrategy[tuple[int, ...]]:
    """No task is ever preempted: what the other drawn arguments find alone."""
    return st.just(())


RIVALS: dict[str, Rival] = {
    "few": lambda tasks: interleavings(tasks=tasks),
    "swarm": lambda tasks: interleavings(tasks=tasks, swarm=True, decisions=LENGTH),
    "few, guided": lambda tasks: interleavings(tasks=tasks),
    "priorities": priorities,
    "walk": walk,
    "none": nothing,
}
