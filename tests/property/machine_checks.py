"""What must be so once all is quiet: the queue of the machine held against its model.

Each check returns what does not fit in a few words, None if all does. They change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from pgq_trio import Job
from pgq_trio.types import JobId, QueueManagerId
from tests.property.machine_model import (
    LIMIT,
    MAX_ATTEMPTS,
    RETRY,
    SLACK,
    Model,
    Owner,
    Task,
    View,
)


class Checks:
    """The model and what the queue says at one moment; `owners` are the workers that live."""

    def __init__(self, model: Model, view: View, owners: Iterable[Owner]) -> None:
        self.model = model
        self.view = view
        self.live: dict[QueueManagerId | None, Owner] = {
            owner.identity: owner for owner in owners if owner.identity is not None
        }

    def mismatch(self) -> str | None:
        """Return which job is not as the model says, or what they are not together."""
        tasks = self.model.tasks
        if strangers := (set(self.view.rows) | set(self.view.ends)) - set(tasks):
            return f"jobs {sorted(strangers)} are nobody's"
        for task in tasks.values():
            wrong = self._wrong(task)
            if wrong is not None:
                return f"job {task.id} ({task.entrypoint}, {task.behaviour!r}) {wrong}"
        return self._wrong_together()

    # ------------------------------------------------------------------ one job

    def _wrong(self, task: Task) -> str | None:
        row, ends = self.view.rows.get(task.id), self.view.ends.get(task.id, [])
        if len(ends) + (row is not None) != 1:
            return f"ended {ends}, and its row is {row and row.status}"
        if row is None:
            return self._wrong_end(task, ends[0]) or self._runs_on(task)
        if task.is_cancelled or task.is_cleared or task.state not in {"open", "held"}:
            return f"is {row.status}, but it should be gone"
        if row.status == "failed":
            lost = task.entrypoint == "held" and task.lost >= MAX_ATTEMPTS
            is_held = task.state == "held" or task.end == "failed" or lost
            return None if is_held else "is held for no reason"
        if task.state == "held":
            return f"is {row.status}, but it should be held"
        if row.status == "queued":
            return self._wrong_in_line(task, row)
        return self._wrong_picked(task, row)

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

    def _runs_on(self, task: Task) -> str | None:
        now = self.view.now
        if task.owner is None or task.owner.is_cut(now):
            return None
        is_told = task.is_cancelled and not task.owner.is_cut(task.gone_at)
        if is_told or task.gone_at + self.model.hears_within < now:
            return f"runs on in {task.owner.name}, but it is {task.state}"
        return None

    def _wrong_in_line(self, task: Task, row: Job) -> str | None:
        if task.owner is not None or task.end not in {None, "retry", "canceled"}:
            return f"is queued, but its handler ended {task.end}"
        attempts = task.attempts + (task.end == "retry")
        if row.attempts != attempts:
            return f"has {row.attempts} attempts in its row, not {attempts}"
        due = task.ended_at + RETRY if task.end == "retry" else task.due
        seats = sum(
            other.status == "picked" and other.entrypoint == "limited"
            for other in self.view.rows.values()
        )
        has_seat = task.entrypoint != "limited" or seats < LIMIT
        if due + self.model.bound < self.view.now and has_seat and self._somebody_is_free():
            return f"waits although it was due {self.view.now - due:g} s ago"
        return None

    def _wrong_picked(self, task: Task, row: Job) -> str | None:
        owner = self.live.get(row.queue_manager_id)
        if owner is None:
            if task.dead_since is None:
                return "is picked by nobody who lives"
            return None if row.attempts == task.attempts - 1 else "was rescued by nobody who lives"
        if owner.is_cut(self.view.now):
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
        if self._has_room(owner):
            return f"waits in {owner.name}, which is free"
        return None

    def _somebody_is_free(self) -> bool:
        return any(self._has_room(owner) for owner in self.live.values())

    def _has_room(self, owner: Owner) -> bool:
        running = sum(task.owner is owner for task in self.model.tasks.values())
        return owner.is_free(self.view.now) and running < owner.maximum

    # ------------------------------------------------------------------ all of them

    def _wrong_together(self) -> str | None:
        rows = self.view.rows.values()
        there = [row for row in rows if row.status in {"queued", "picked"}]
        keys = [row.dedupe_key for row in there if row.dedupe_key is not None]
        if len(set(keys)) < len(keys):
            return f"several jobs have one key: {sorted(keys)}"
        picked = [row for row in there if row.status == "picked"]
        if sum(row.entrypoint == "limited" for row in picked) > LIMIT:
            return f"more than {LIMIT} of 'limited' are picked"
        for owner in self.live.values():
            claimed = sum(row.queue_manager_id == owner.identity for row in picked)
            if claimed > 2 * owner.maximum:
                return f"{owner.name} has claimed {claimed} jobs"
        return None

    def overdue_rescue(self, expired_before: float) -> str | None:
        """Return which job of a dead worker nobody has rescued, though its lease is long over."""
        if not self._somebody_is_free():
            return None
        for task in self.model.tasks.values():
            row = self.view.rows.get(task.id)
            if task.state != "open" or task.owner is not None or task.dead_since is None:
                continue
            if row is None or row.queue_manager_id in self.live or row.status != "picked":
                continue
            if task.dead_since < expired_before:
                return f"job {task.id} was not rescued; its worker died at {task.dead_since:g}"
        return None

    def out_of_order(self, time_of: Callable[[datetime], float]) -> str | None:
        """Return which job was claimed before one that came first in line at that time.

        Jobs of an entrypoint with a limit wait for a seat, so they do not stand in this line.
        Nor is it asked where one stood that was retried, and has not run again.
        """
        rows = [row for row in self.view.rows.values() if row.entrypoint != "limited"]
        waiting = [row for row in rows if row.status == "queued"]
        since = {
            row.id: max(
                self.model.tasks[row.id].since, time_of(row.execute_after), time_of(row.updated)
            )
            for row in waiting
        }
        for row in rows:
            if row.status != "picked" or row.attempts > self.model.tasks[row.id].attempts:
                continue
            claimed = time_of(row.updated)
            for other in waiting:
                if since[other.id] + SLACK < claimed and _rank(other) < _rank(row):
                    return f"job {row.id} was claimed before job {other.id}, first in line"
        return None


def _rank(row: Job) -> tuple[int, JobId]:
    return -row.priority, row.id
