"""The queue as plain Python: what each job of the machine must be like; it runs nothing.

Facts come in as they happen: what the handlers did, what the queue answered. Once all is quiet they
are held against what the queue says (machine_checks.py). What fits, `settle` makes the state from
which the next facts go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pgq_trio import Job
from pgq_trio.types import JobId, QueueManagerId

#: How a run of a handler ended: as the outcome says, or it was cancelled and is none.
End = Literal["successful", "exception", "failed", "retry", "canceled"]

#: Seconds until a retry.
RETRY = 4.0

#: Jobs of "limited" that may run at once, in all workers.
LIMIT = 2

#: Runs of a job of "held" that may be lost in a row.
MAX_ATTEMPTS = 2

#: A handler's end and the reading of a clock are this far apart at most, in seconds.
SLACK = 0.01

#: How late what is due may be taken, in seconds.
BOUND = 0.05


class Owner(Protocol):
    """A worker, as far as the model asks."""

    name: str
    maximum: int

    @property
    def identity(self) -> QueueManagerId | None:
        """What the queue calls it, None before it claims."""
        ...

    def is_free(self, now: float) -> bool:
        """Whether it has to take what is due."""
        ...

    def is_cut(self, now: float) -> bool:
        """Whether it may be out of touch with the queue, or was so later."""
        ...


@dataclass(eq=False)
class Task:
    """A job as the model knows it.

    Attributes:
        due: when it may run first.
        since: since when it stands in line as it does, for the order of claims.
        attempts: what its next run must be told.
        lost: how many runs in a row were lost with their workers.
        state: "open", "held", or how it has ended.
        owner: who runs it now.
        end: how its last run ended, for as long as the queue was not seen to know.
        dead_since: when the worker died that holds it.
        is_cancelled, is_cleared: that the queue has said so, or may have; `gone_at` is when.
    """

    id: JobId
    entrypoint: str
    behaviour: bytes
    priority: int
    key: str | None
    due: float
    since: float
    attempts: int = 0
    lost: int = 0
    retries: int = 0
    runs: int = 0
    state: str = "open"
    owner: Owner | None = None
    end: End | None = None
    ended_at: float = 0.0
    ended_in: Owner | None = None
    dead_since: float | None = None
    is_cancelled: bool = False
    is_cleared: bool = False
    gone_at: float = 0.0


@dataclass
class View:
    """What the queue says at one moment."""

    now: float
    rows: dict[JobId, Job]
    ends: dict[JobId, list[str]]


@dataclass(eq=False)
class Model:
    """All jobs, and what should not have happened.

    Attributes:
        bound: seconds after which what is due must be taken.
        hears_within: seconds after which a worker must know that a job is gone, though it did not
            hear so at once.
    """

    bound: float = BOUND
    hears_within: float = math.inf
    tasks: dict[JobId, Task] = field(default_factory=dict[JobId, Task])
    problems: list[str] = field(default_factory=list[str])
    facts: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def catch_up(self) -> None:
        """Take in what has happened."""
        facts, self.facts[:] = self.facts[:], []
        for fact in facts:
            fact()

    # ------------------------------------------------------------------ facts

    def enqueued(self, task: Task) -> None:
        """The queue has taken a job."""
        if task.id in self.tasks:
            self.problems.append(f"job {task.id} was enqueued twice")
        self.tasks[task.id] = task

    def begins(self, job: Job, owner: Owner, at: float) -> None:
        """A handler was called."""
        task = self.tasks.get(job.id)
        if task is None:
            self.problems.append(f"job {job.id} runs, which nobody has enqueued")
            return
        self._next_run(task, at)
        problems = {
            f"is {task.state}": not self._may_begin(task, owner, at),
            f"runs in {task.owner and task.owner.name} as well": task.owner is not None,
            f"is due {task.due - at:g} s later": at < task.due - SLACK / 2,
            f"has {job.attempts} attempts, not {task.attempts}": job.attempts != task.attempts,
            f"says it is {job.status}": job.status != "picked",
        }
        self.problems += [
            f"job {job.id} begins in {owner.name} but {what}"
            for what, is_so in problems.items()
            if is_so
        ]
        task.owner, task.dead_since = owner, None
        task.runs += 1
        if task.entrypoint == "limited" and len(self._running("limited")) > LIMIT:
            self.problems.append(f"more than {LIMIT} of 'limited' run")

    def _next_run(self, task: Task, at: float) -> None:
        """What the end before means for a run after it."""
        end, task.end = task.end, None
        if end == "retry":
            task.attempts += 1
            task.lost = 0
            task.due = task.ended_at + RETRY
        elif end == "canceled":
            task.lost = 0
        elif end is not None:
            self.problems.append(f"job {task.id} begins at {at:g} after it ended: {end}")

    def _may_begin(self, task: Task, owner: Owner, at: float) -> bool:
        if task.state == "open":
            return True
        # It was claimed, and waited; its worker does not know yet that it is gone.
        is_told = task.state == "canceled" and not owner.is_cut(task.gone_at)
        is_gone = task.state in {"canceled", "deleted"} and not is_told
        return is_gone and at <= task.gone_at + self.hears_within

    def _running(self, entrypoint: str) -> list[Task]:
        # A row that was deleted frees its seat at once; its handler hears of it later.
        return [
            task
            for task in self.tasks.values()
            if task.owner is not None and task.entrypoint == entrypoint
            if task.state == "open" and not task.is_cleared and not task.is_cancelled
        ]

    def ends(self, job_id: JobId, owner: Owner, end: End, at: float) -> None:
        """A handler has ended."""
        task = self.tasks[job_id]
        if task.owner is owner:
            task.owner = None
            task.end, task.ended_at, task.ended_in = end, at, owner
            task.retries += end == "retry"

    def died(self, owner: Owner, held: Iterable[Job], at: float) -> None:
        """A worker is gone for good, and holds these rows."""
        for row in held:
            task = self.tasks[row.id]
            was_retried = task.end == "retry" and row.attempts == task.attempts + 1
            if was_retried or (task.end == "canceled" and task.ended_in is not owner):
                self._next_run(task, at)  # it was claimed again after that
            if row.attempts != task.attempts:
                self.problems.append(
                    f"job {row.id} has {row.attempts} attempts in its row, not {task.attempts}"
                )
            task.end, task.owner, task.dead_since = None, None, at
            task.attempts += 1
            task.lost += 1

    def is_gone(self, task: Task, at: float, *, cancelled: bool) -> None:
        """The queue has deleted a job, or may have."""
        task.is_cancelled = task.is_cancelled or cancelled
        task.is_cleared = not task.is_cancelled
        task.gone_at = at

    def requeued(self, ids: Iterable[JobId], at: float) -> None:
        """The queue has queued held jobs again."""
        for job_id in ids:
            task = self.tasks[job_id]
            lost = task.entrypoint == "held" and task.lost >= MAX_ATTEMPTS
            if task.state != "held" and task.end != "failed" and not lost:
                self.problems.append(f"job {job_id} was requeued, but it is {task.state}")
            task.state, task.end, task.attempts, task.lost = "open", None, 0, 0
            task.due = task.since = at

    # ------------------------------------------------------------------ the next state

    def settle(self, view: View) -> None:
        """Take over what the queue says; it was found to fit."""
        for task in self.tasks.values():
            row = view.rows.get(task.id)
            if row is None:
                task.state = view.ends[task.id][0]
                task.end, task.dead_since = None, None
                if task.owner is None:
                    task.is_cleared = task.is_cancelled = False
            elif row.status == "failed":
                task.state, task.end, task.dead_since = "held", None, None
            elif row.status == "queued":
                self._next_run(task, view.now)
            elif task.owner is None and self._is_claimed_again(task, row):
                self._next_run(task, view.now)
                task.dead_since = None
            task.since = max(task.since, task.ended_at)

    def _is_claimed_again(self, task: Task, row: Job) -> bool:
        is_retried = task.end == "retry" and row.attempts > task.attempts
        return is_retried or (task.end in {None, "canceled"} and row.attempts == task.attempts)
