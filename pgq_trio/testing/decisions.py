"""A schedule as data: which of the runnable tasks goes next; knows no event loop.

A schedule is a sequence of small integers, made before the run. At each moment at which more than
one task can run, the next number picks one of them: 0 is what the policy would do by itself, 1 the
first of the others, and so on. When the numbers are used up the policy goes on, so every run ends,
and the empty schedule is the simplest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar, get_args

__all__ = ["Decision", "Decisions", "Policy", "Schedule", "shortened"]

Schedule: TypeAlias = Sequence[int]

#: "stay" keeps running the same task until it blocks, so that each number that is not 0 is a
#: preemption; measured, it finds all planted faults with schedules of a few numbers. "rotate" runs
#: the task that has waited longest; it misses faults that need one task to run on for a while.
Policy: TypeAlias = Literal["stay", "rotate"]

#: Steps that one task may make in a row under "stay" while others can run: a loop that waits for
#: another task by checkpoints alone would never end otherwise.
PATIENCE = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decision:
    """One moment at which more than one task could run.

    Attributes:
        runnable: how many could.
        pick: which of them went, 0 for the one that the policy prefers.
    """

    runnable: int
    pick: int


class Decisions(Generic[T]):
    """Takes the decisions of one run; `T` is what a backend calls a task.

    Attributes:
        taken: the decisions so far.

    Raises:
        ValueError: the policy is unknown, or a number of the schedule negative.
    """

    def __init__(self, schedule: Schedule = (), *, policy: Policy = "stay") -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy is 'stay' or 'rotate', got {policy!r}")
        if any(pick < 0 for pick in schedule):
            raise ValueError(f"a schedule holds numbers from 0 on, got {tuple(schedule)}")
        self.taken: list[Decision] = []
        self._schedule = tuple(schedule)
        self._policy = policy
        self._last: T | None = None
        self._streak = 0

    def choose(self, runnable: Sequence[T]) -> T:
        """Return who goes next of those who can run, given in the order in which they came."""
        order = list(runnable)
        if self._policy == "stay" and self._last in order and self._streak < PATIENCE:
            order.remove(self._last)
            order.insert(0, self._last)
        chosen = order[self._pick(len(order)) if len(order) > 1 else 0]
        self._streak = self._streak + 1 if chosen is self._last else 1
        self._last = chosen
        return chosen

    def delay(self, longest: int) -> int:
        """Return how long a task waits at a checkpoint, where nobody can order tasks: 0 to longest.

        It is what a simulation does with a schedule when the event loop does not let it choose.
        """
        return self._pick(longest + 1)

    def _pick(self, runnable: int) -> int:
        place = len(self.taken)
        pick = self._schedule[place] % runnable if place < len(self._schedule) else 0
        self.taken.append(Decision(runnable, pick))
        return pick


def shortened(picks: Schedule) -> tuple[int, ...]:
    """Return the schedule without the zeros at its end, which change nothing."""
    end = len(picks)
    while end and picks[end - 1] == 0:
        end -= 1
    return tuple(picks[:end])
