"""The queue as plain Python: what each job of the machine must be like; it runs nothing.

Facts come in as they happen: what the handlers did, what the queue answered. `compare` holds them
against what the queue says once all is quiet, and says what does not fit. What fits, `settle`
makes the state from which the next facts go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
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


#: The workers that live, by what the queue calls them.
Live = dict[QueueManagerId | None, Owner]


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

    # ------------------------------------------------------------------ what must be so

    def compare(self, view: View, owners: Iterable[Owner]) -> str | None:
        """Return what is not as it has to be once all is quiet, None if all is."""
        live: Live = {owner.identity: owner for owner in owners if owner.identity is not None}
        if strangers := (set(view.rows) | set(view.ends)) - set(self.tasks):
            return f"jobs {sorted(strangers)} are nobody's"
        for task in self.tasks.values():
            wrong = self._wrong(task, view, live)
            if wrong is not None:
                return f"job {task.id} ({task.entrypoint}, {task.behaviour!r}) {wrong}"
        return self._wrong_together(view, live)

    def _wrong(self, task: Task, view: View, live: Live) -> str | None:
        row, ends = view.rows.get(task.id), view.ends.get(task.id, [])
        if len(ends) + (row is not None) != 1:
            return f"ended {ends}, and its row is {row and row.status}"
        if row is None:
            return self._wrong_end(task, ends[0]) or self._runs_on(task, view.now)
        if task.is_cancelled or task.is_cleared or task.state not in {"open", "held"}:
            return f"is {row.status}, but it should be gone"
        if row.status == "failed":
            lost = task.entrypoint == "held" and task.lost >= MAX_ATTEMPTS
            is_held = task.state == "held" or task.end == "failed" or lost
            return None if is_held else "is held for no reason"
        if task.state == "held":
            return f"is {row.status}, but it should be held"
        if row.status == "queued":
            return self._wrong_in_line(task, row, view, live)
        return self._wrong_picked(task, row, view, live)

    def _wrong_end(self, task: Task, end: str) -> str | None:
        if task.state not in {"open", "held"}:
            return None if task.state == end else f"ended {end}, and before that {task.state}"
        if task.is_cancelled:
            return None if end == "canceled" else f"ended {end}, but it was cancelled"
        if task.is_cleared and end == "deleted":
            return None
        if task.end == end and task.owner is None:
            return None
        return f"is {end}, but its handler ended {task.end}"

    def _runs_on(self, task: Task, now: float) -> str | None:
        if task.owner is None or task.owner.is_cut(now):
            return None
        is_told = task.is_cancelled and not task.owner.is_cut(task.gone_at)
        if is_told or task.gone_at + self.hears_within < now:
            return f"runs on in {task.owner.name}, but it is {task.state}"
        return None

    def _wrong_in_line(self, task: Task, row: Job, view: View, live: Live) -> str | None:
        if task.owner is not None or task.end not in {None, "retry", "canceled"}:
            return f"is queued, but its handler ended {task.end}"
        attempts = task.attempts + (task.end == "retry")
        if row.attempts != attempts:
            return f"has {row.attempts} attempts in its row, not {attempts}"
        due = task.ended_at + RETRY if task.end == "retry" else task.due
        seats = sum(
            other.status == "picked" and other.entrypoint == "limited"
            for other in view.rows.values()
        )
        has_seat = task.entrypoint != "limited" or seats < LIMIT
        if due + self.bound < view.now and has_seat and self._somebody_is_free(view, live):
            return f"waits although it was due {view.now - due:g} s ago"
        return None

    def _wrong_picked(self, task: Task, row: Job, view: View, live: Live) -> str | None:
        owner = live.get(row.queue_manager_id)
        if owner is None:
            if task.dead_since is None:
                return "is picked by nobody who lives"
            return None if row.attempts == task.attempts - 1 else "was rescued by nobody who lives"
        if owner.is_cut(view.now):
            return None
        attempts = task.attempts + (task.end == "retry")
        if row.attempts != attempts:
            return f"has {row.attempts} attempts in its row, not {attempts}"
        if task.owner is owner:
            return None
        if task.owner is not None:
            return f"is picked by {owner.name}, but runs in {task.owner.name}"
        if task.end not in {None, "canceled", "retry"}:
            return f"is picked, but its handler ended {task.end}"
        if self._has_room(owner, view.now):
            return f"waits in {owner.name}, which is free"
        return None

    def _somebody_is_free(self, view: View, live: Live) -> bool:
        return any(self._has_room(owner, view.now) for owner in live.values())

    def _has_room(self, owner: Owner, now: float) -> bool:
        running = sum(task.owner is owner for task in self.tasks.values())
        return owner.is_free(now) and running < owner.maximum

    def _wrong_together(self, view: View, live: Live) -> str | None:
        there = [row for row in view.rows.values() if row.status in {"queued", "picked"}]
        keys = [row.dedupe_key for row in there if row.dedupe_key is not None]
        if len(set(keys)) < len(keys):
            return f"several jobs have one key: {sorted(keys)}"
        picked = [row for row in there if row.status == "picked"]
        if sum(row.entrypoint == "limited" for row in picked) > LIMIT:
            return f"more than {LIMIT} of 'limited' are picked"
        for owner in live.values():
            claimed = sum(row.queue_manager_id == owner.identity for row in picked)
            if claimed > 2 * owner.maximum:
                return f"{owner.name} has claimed {claimed} jobs"
        return None

    def overdue_rescues(
        self, view: View, owners: Iterable[Owner], expired_before: float
    ) -> str | None:
        """Return which job of a dead worker nobody has rescued, though its lease is long over."""
        live: Live = {owner.identity: owner for owner in owners if owner.identity is not None}
        if not self._somebody_is_free(view, live):
            return None
        for task in self.tasks.values():
            dead = task.state == "open" and task.owner is None and task.dead_since is not None
            row = view.rows.get(task.id)
            if not dead or row is None or row.queue_manager_id in live or row.status != "picked":
                continue
            if task.dead_since is not None and task.dead_since < expired_before:
                return f"job {task.id} was not rescued; its worker died at {task.dead_since:g}"
        return None

    def out_of_order(self, view: View, time_of: Callable[[datetime], float]) -> str | None:
        """Return which job was claimed before one that came first in line at that time."""
        for row in view.rows.values():
            task = self.tasks[row.id]
            if (
                row.status != "picked"
                or task.entrypoint == "limited"
                or row.attempts > task.attempts
            ):
                continue
            claimed = time_of(row.updated)
            for other in view.rows.values():
                if other.status != "queued" or other.entrypoint == "limited":
                    continue
                times = (time_of(time) for time in (other.execute_after, other.updated))
                since = max(self.tasks[other.id].since, *times)
                if since + SLACK < claimed and _rank(other) < _rank(row):
                    return (
                        f"job {row.id} was claimed before job {other.id}, which was first in line"
                    )
        return None

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


def _rank(row: Job) -> tuple[int, JobId]:
    return -row.priority, row.id
