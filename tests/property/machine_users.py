"""What users do in the programs of the machine: enqueue, cancel, requeue, delete, let jobs end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager

from hypothesis import strategies as st
from hypothesis.stateful import rule

from pgq_trio.errors import DuplicateJobError
from pgq_trio.types import JobId, OnConflict
from tests.property.machine_model import Task
from tests.property.machine_rest import World, entrypoints, some, thens, when

behaviours = st.sampled_from([b"hold", b"ok", b"fail", b"again", b"sleep", b"hold"])


class Users(World):
    """The commands that are about jobs."""

    @rule(
        entrypoint=entrypoints,
        work=st.lists(st.tuples(behaviours, st.integers(-1, 1)), min_size=1, max_size=4),
        delay=st.sampled_from([0.0, 0.0, 2.0, 8.0]),
        then=thens,
    )
    @when()
    def enqueue(
        self, entrypoint: str, work: list[tuple[bytes, int]], delay: float, then: str
    ) -> None:
        """Ask for some jobs."""
        payloads, priorities = (list(column) for column in zip(*work, strict=True))
        with self.step(then), self.asking() as (at, tell):
            ids = self.world.call(
                self.place.queries.enqueue,
                [entrypoint] * len(work), payloads, priorities, execute_after=delay,
            )  # fmt: skip
            since = self.world.call(self.place.now)
            for job_id, (behaviour, priority) in zip(ids, work, strict=True):
                task = Task(job_id, entrypoint, behaviour, priority, None, at + delay, since)
                tell(functools.partial(self.model.enqueued, task))

    @rule(
        key=st.sampled_from(["key 1", "key 1", "key 2"]),
        on_conflict=st.sampled_from(["update_priority", "raise", "skip"]),
        entrypoint=st.sampled_from(["held", "plain"]),
        behaviour=st.sampled_from([b"ok", b"fail", b"hold"]),
        priority=st.integers(-1, 1),
        then=thens,
    )
    @when()
    def enqueue_with_key(
        self,
        key: str,
        on_conflict: OnConflict,
        entrypoint: str,
        behaviour: bytes,
        priority: int,
        then: str,
    ) -> None:
        """Ask for a job of which there is one at a time."""
        taken = self.holder(key)
        with self.step(then), self.asking() as (at, tell):
            job_id: JobId | None
            try:
                (job_id,) = self.world.call(
                    self.place.queries.enqueue,
                    entrypoint, behaviour, priority, dedupe_key=key, on_conflict=on_conflict,
                )  # fmt: skip
            except DuplicateJobError:
                assert on_conflict == "raise"
                job_id = None
            since = self.world.call(self.place.now)
            if job_id is None or job_id in self.model.tasks:
                self.refused(key, taken, job_id, priority, since)
            else:
                # On the real clock it may have run to its end meanwhile.
                is_taken = self.dsn is None and self.is_quiet and taken and taken.owner is None
                assert not is_taken, f"{key} was taken"
                task = Task(job_id, entrypoint, behaviour, priority, key, at, since)
                tell(lambda: self.model.enqueued(task))

    def holder(self, key: str) -> Task | None:
        """Return the job that has a key, as far as is known."""
        self.model.catch_up()
        tasks = [task for task in self.model.tasks.values() if task.key == key]
        gone = [task for task in tasks if task.is_cleared or task.is_cancelled]
        return next((task for task in tasks if task.state == "open" and task not in gone), None)

    def refused(
        self, key: str, taken: Task | None, job_id: JobId | None, priority: int, at: float
    ) -> None:
        """A job was not enqueued: somebody must have its key."""
        assert taken is not None, f"nobody has {key}"
        if job_id is not None:
            assert job_id == taken.id, f"{key} is {job_id}'s, not {taken.id}'s"
            if priority > taken.priority:
                taken.priority, taken.since = priority, at

    @contextmanager
    def asking(self) -> Generator[tuple[float, Callable[[Callable[[], None]], None]]]:
        """Yield the time, and how to tell the model what was begun now, whatever came meanwhile.

        On PostgreSQL a job may run before the reply that it is enqueued has come.
        """
        self.model.catch_up()
        told: list[Callable[[], None]] = []
        yield self.world.call(self.place.now), told.append
        self.model.facts[:0] = told

    def pick(self, number: int) -> list[JobId]:
        """Return some of the jobs that have not ended, those that run first."""
        ids = sorted(self.open_jobs, key=lambda job_id: self.model.tasks[job_id].owner is None)
        return ids[number % len(ids) :: 3] if ids else []

    @rule(number=some, then=thens)
    @when(lambda self: self.open_jobs)
    def cancel_jobs(self, number: int, then: str) -> None:
        """Cancel some jobs, whatever becomes of them just now."""
        with self.step(then):
            ids = self.pick(number)
            gone = self.world.call(self.place.queries.mark_job_as_cancelled, ids)
            at = self.world.call(self.place.now)
            for job_id in gone:
                self.model.is_gone(self.model.tasks[job_id], at, cancelled=True)

    @rule(then=thens)
    @when(lambda self: any(task.state == "held" for task in self.model.tasks.values()))
    def requeue(self, then: str) -> None:
        """Queue again what is held."""
        with self.step(then), self.asking() as (at, tell):
            held = [task for task in self.model.tasks.values() if task.state == "held"]
            ids = self.world.call(self.place.queries.requeue_jobs, [task.id for task in held])
            tell(lambda: self.model.requeued(ids, at))
            requeued = {task.key for task in held if task.id in ids}
            for task in held:
                is_taken = task.key is not None and self.holder(task.key) is not None
                is_taken = is_taken or (task.key is not None and task.key in requeued)
                assert task.id in ids or is_taken or not self.is_quiet, f"{task.id} is held"

    @rule(entrypoint=entrypoints | st.none(), then=thens)
    @when(lambda self: self.open_jobs)
    def clear(self, entrypoint: str | None, then: str) -> None:
        """Delete all jobs of an entrypoint, or all."""
        with self.step(then):
            self.world.call(self.place.queries.clear_queue, entrypoint)
            at = self.world.call(self.place.now)
            self.model.catch_up()
            for task in self.model.tasks.values():
                if entrypoint in {None, task.entrypoint} and task.state in {"open", "held"}:
                    self.model.is_gone(task, at, cancelled=False)

    @rule(number=some, then=thens)
    @when(lambda self: any(task.owner for task in self.model.tasks.values()))
    def let_go(self, number: int, then: str) -> None:
        """Have some of the jobs end that wait for this."""
        with self.step(then):
            for job_id in self.pick(number):
                self.world.call(self.open_gate, job_id)
