"""A drawn program against the queue and a plain Python model of it, in memory and on PostgreSQL.

Hypothesis draws commands of users, workers that come, go and die, and time that passes. Some follow
each other at once, so that they hit what runs half way. When all is quiet the queue has to be as
the model says: no job lost, none invented, one outcome each, limits, order, attempts, keys, leases,
due times, fire times, shared resources. At the end a healthy worker does all that can be done.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgq_trio import InMemoryDriver, PgQueuer, Schedule
from pgq_trio.errors import DuplicateJobError
from pgq_trio.testing import (
    BACKENDS,
    Backend,
    LiveTask,
    LiveWorld,
    UnreliableDriver,
    interleavings,
    live,
)
from pgq_trio.types import JobId, OnConflict
from tests.conftest import NEWEST_SERVER
from tests.property.machine_fires import RARELY, Fires
from tests.property.machine_model import BOUND, MAX_ATTEMPTS, Model, Task, View
from tests.property.machine_worlds import LEASE, Place, PostgresPlace, Worker, look
from tests.property.profiles import examples

#: Workers at a time.
MOST = 3

#: Seconds in which all has to be quiet on PostgreSQL, on a machine with much else to do.
PATIENCE = 30.0

#: Programs of few commands come to where these meet sooner than programs of all.
PARTS: dict[str, frozenset[str] | None] = {
    "all": None,
    "keys": frozenset({"enqueue_with_key", "requeue"}),
    "stops": frozenset({"enqueue", "start_worker", "stop_worker"}),
    "seats": frozenset({"enqueue", "cancel_jobs", "clear"}),
    "silences": frozenset({"enqueue", "fall_silent", "wait"}),
    "schedules": frozenset({"trigger", "pause", "resume", "wait", "kill_worker", "start_worker"}),
}

#: What a rule leaves behind: whether what it began may come to rest before the next one.
thens = st.sampled_from(["and then", "at once"])
entrypoints = st.sampled_from(["plain", "limited", "held"])
behaviours = st.sampled_from([b"hold", b"ok", b"fail", b"again", b"sleep", b"hold"])
some = st.integers(0, 10)


Command = Callable[..., None]


def when(
    condition: Callable[[Machine], object] = lambda _machine: True,
) -> Callable[[Command], Command]:
    """Leave a command out where it does nothing, and where it is no part of the program.

    On the real clock the former is known when it comes to it: which commands can be drawn must not
    depend on how fast the machine is.
    """

    def decorate(command: Command) -> Command:
        name = command.__name__

        @functools.wraps(command)
        def run_or_not(self: Machine, **arguments: Any) -> None:
            if condition(self):
                command(self, **arguments)

        def can_be_drawn(self: Machine) -> bool:
            names = PARTS[self.part]
            is_part = names is None or name in names
            return is_part and (self.dsn is not None or bool(condition(self)))

        return precondition(can_be_drawn)(run_or_not)

    return decorate


class Machine(RuleBasedStateMachine):
    """The program; `make_place` says where the queue is."""

    backend: Backend = "trio"
    dsn: str | None = None
    part: str = "all"

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.workers: list[Worker] = []
        self.number = 0
        self.gates: dict[JobId, anyio.Event] = {}
        self.is_fine = False
        self.is_quiet = True
        self.why: str | None = None
        self.stack = ExitStack()

    # ------------------------------------------------------------------ the world

    @initialize(schedule=interleavings(tasks=4, decisions=100), workers=st.integers(1, 2))
    def begin(self, schedule: tuple[int, ...], workers: int) -> None:
        """Open the world; on PostgreSQL nobody can order the tasks."""
        if self.dsn is None:
            world = live(self.backend, schedule=schedule)
        else:
            world = live(self.backend, clock="real")
        self.world: LiveWorld = self.stack.enter_context(world)
        place = Place(self.world) if self.dsn is None else PostgresPlace(self.world, self.dsn)
        self.place: Place = place
        self.model.hears_within = place.hears_within
        self.stack.callback(place.close)
        self.fires = Fires(is_regular=self.dsn is None)
        with self.step():
            for _ in range(workers):
                self.begin_worker(1)

    @property
    def living(self) -> list[Worker]:
        """The workers that run."""
        return [worker for worker in self.workers if worker.is_running and not worker.is_dead]

    @contextmanager
    def step(self, then: str = "and then") -> Generator[None]:
        """Do something, then have all come to rest and look, unless the next comes at once."""
        self.is_fine = False
        yield
        self.is_quiet = then == "and then"
        if self.is_quiet:
            self.rest()
        else:
            self.model.catch_up()
        self.check_problems()
        self.is_fine = True

    def check_problems(self) -> None:
        """Fail if something happened that must not."""
        problems = [*self.model.problems, *self.fires.problems]
        assert not problems, problems

    def rest(self) -> None:
        """Have all come to rest, and compare."""
        if self.dsn is None:
            self.world.advance(BOUND)
            is_so = self.world.call(self.fits)
        else:
            try:
                self.world.until(self.fits, within=PATIENCE)
                is_so = True
            except AssertionError:
                is_so = False
        self.check_problems()
        assert is_so, self.why

    async def fits(self) -> bool:
        """Whether the queue is as the model says; `why` says what does not fit."""
        view = await look(self.place)
        rows = await self.place.queries.peek_schedule()
        self.model.catch_up()
        self.why = self.mismatch(view, rows[0] if rows else None)
        if self.why is not None:
            return False
        self.model.settle(view)
        if self.fires.is_paused and self.fires.paused_since is None:
            self.fires.paused_since = view.now
        return True

    def mismatch(self, view: View, row: Any) -> str | None:
        """Return what does not fit."""
        for worker in self.living:
            if worker.identity is None and not worker.is_draining:
                return f"{worker.name} has not begun to claim"
            is_late = worker.ends_by is not None and worker.ends_by < view.now
            if is_late and not worker.is_cut(view.now):
                return f"{worker.name} was to end by {worker.ends_by:g}, and runs at {view.now:g}"
        is_served = any(worker.is_free(view.now) for worker in self.living)
        expired = self.place.expired_before(view.now)
        return (
            self.model.compare(view, self.living)
            or self.model.overdue_rescues(view, self.living, expired)
            or (self.model.out_of_order(view, self.place.time_of) if self.dsn is None else None)
            or self.fires.wrong(row, self.place.wall(), view.now, is_served=is_served)
        )

    # ------------------------------------------------------------------ users

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

    @property
    def open_jobs(self) -> list[JobId]:
        """The jobs that have not ended, as far as is known."""
        return [task.id for task in self.model.tasks.values() if task.state == "open"]

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

    def open_gate(self, job_id: JobId) -> None:
        """Let one job end, on the event loop."""
        self.gates.setdefault(job_id, anyio.Event()).set()

    # ------------------------------------------------------------------ workers

    @rule(maximum=st.sampled_from([1, 1, 2, 10]), then=thens)
    @when(lambda self: len(self.living) < MOST)
    def start_worker(self, maximum: int, then: str) -> None:
        """Start one more."""
        with self.step(then):
            self.begin_worker(maximum)

    def begin_worker(self, maximum: int) -> Worker:
        """Start one more."""
        self.number += 1
        worker = Worker(
            f"worker {self.number}", self.place, self.model, self.fires, self.gates, maximum
        )
        self.workers.append(worker)
        worker.task = self.world.start(worker.run, name=worker.name)
        return worker

    @rule(number=some, grace=st.sampled_from([0.0, 3.0, 1000.0]), then=thens)
    @when(lambda self: any(worker.pgq for worker in self.living))
    def stop_worker(self, number: int, grace: float, then: str) -> None:
        """Ask one to stop; what it runs goes on for a while."""
        with self.step(then):
            asked = [worker for worker in self.living if worker.pgq is not None]
            worker = asked[number % len(asked)]
            self.stop(worker, grace)

    def stop(self, worker: Worker, grace: float) -> None:
        """Ask one to stop."""
        assert worker.pgq is not None
        self.world.call(worker.pgq.request_shutdown, grace)
        worker.is_draining = True
        now = self.world.call(self.place.now)
        end = now + grace + (BOUND / 2 if self.dsn is None else 1.0)
        worker.ends_by = end if worker.ends_by is None else min(worker.ends_by, end)

    @rule(number=some)
    @when(lambda self: self.living)
    def kill_worker(self, number: int) -> None:
        """Have one die in the middle of all it does; its leases stay until they expire."""
        with self.step():
            worker = self.living[number % len(self.living)]
            identity = worker.identity
            self.world.call(worker.crash)
            assert worker.task is not None
            worker.task.cancel()
            self.world.until(lambda: not worker.is_running)
            self.model.catch_up()
            view = self.world.call(look, self.place)
            held = [
                row
                for row in view.rows.values()
                if row.status == "picked" and row.queue_manager_id in {identity, worker.identity}
            ]
            self.model.died(worker, held, view.now)
            self.fires.mishap(view.now)

    @rule(number=some, then=thens)
    @when(lambda self: any(worker.identity for worker in self.living))
    def fall_silent(self, number: int, then: str) -> None:
        """Have one lose its connection for a moment."""
        with self.step(then):
            known = [worker for worker in self.living if worker.identity is not None]
            self.world.call(known[number % len(known)].fall_silent)
            self.fires.mishap(self.world.call(self.place.now))

    @rule(seconds=st.sampled_from([0.5, 5.0, 12.0, 35.0, 70.0]))
    @when()
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        with self.step():
            self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; on PostgreSQL for those who died and what is deferred."""
        self.place.advance(seconds, self.dead())

    def dead(self) -> list[Any]:
        """Return what the queue calls the workers that have died."""
        view = self.world.call(look, self.place)
        living = {worker.identity for worker in self.living}
        owners = {row.queue_manager_id for row in view.rows.values() if row.status == "picked"}
        return [owner for owner in owners - living if owner is not None]

    # ------------------------------------------------------------------ schedules

    @rule(then=thens)
    @when(lambda self: self.workers)
    def trigger(self, then: str) -> None:
        """Have the schedule fire now."""
        with self.step(then):
            at = self.world.call(self.place.now)
            if self.world.call(self.place.queries.trigger_schedule, entrypoints="tick"):
                assert not self.fires.is_paused
                self.fires.triggers += 1
                self.fires.triggered_at = at

    @rule(then=thens)
    @when(lambda self: self.workers and not self.fires.is_paused)
    def pause(self, then: str) -> None:
        """Keep the schedule from firing."""
        with self.step(then):
            if self.world.call(self.place.queries.pause_schedule, entrypoints="tick"):
                self.fires.is_paused = True

    @rule(then=thens)
    @when(lambda self: self.fires.is_paused)
    def resume(self, then: str) -> None:
        """Have it fire again, and make up for what was missed."""
        with self.step(then):
            self.model.catch_up()
            self.fires.is_paused, self.fires.paused_since = False, None
            self.world.call(self.place.queries.resume_schedule, entrypoints="tick")

    # ------------------------------------------------------------------ the end

    def teardown(self) -> None:
        """Have a healthy worker do all that can be done; then all stop."""
        with self.stack:
            if self.is_fine:
                self.finish()

    def finish(self) -> None:
        """Drain the queue, end all workers and look at what they leave behind."""
        with self.step():
            self.fires.is_paused, self.fires.paused_since = False, None
            self.world.call(self.place.queries.resume_schedule, entrypoints="tick")
            for job_id in self.model.tasks:
                self.world.call(self.open_gate, job_id)
            self.begin_worker(10)
        for _ in range(MAX_ATTEMPTS + 1):
            if self.open_jobs:
                with self.step():
                    self.pass_time(2 * LEASE + 10)
        if self.dsn is not None:
            self.world.until(self.is_drained, within=PATIENCE)
        left = [task.id for task in self.model.tasks.values() if task.state == "open"]
        assert not left, f"jobs {left} have not ended"
        with self.step():
            for worker in self.living:
                if worker.pgq is not None:
                    self.stop(worker, 0.0)
        self.world.until(lambda: not self.living, within=PATIENCE)
        for worker in self.workers:
            self.check_resources(worker)

    async def is_drained(self) -> bool:
        """Whether all that can be done is done."""
        fits = await self.fits()
        return fits and all(task.state != "open" for task in self.model.tasks.values())

    def check_resources(self, worker: Worker) -> None:
        """Entered and left once; each run was counted in what all share."""
        if not worker.lives["entered"]:
            return
        assert worker.lives == {"entered": 1, "left": 1}, (worker.name, worker.lives)
        assert worker.shared["runs"] == worker.runs, (worker.name, worker.shared, worker.runs)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Jobs fail by the hundred here: their log costs more than they do."""
    caplog.set_level(logging.CRITICAL, logger="pgq_trio")


def run(backend: Backend, dsn: str | None, part: str, count: int) -> None:
    """Run drawn programs."""
    machine = type("Machine", (Machine,), {"backend": backend, "dsn": dsn, "part": part})
    run_state_machine_as_test(machine, settings=settings(examples(count), stateful_step_count=40))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_machine_in_memory(backend: Backend, part: str) -> None:
    """The queue in memory, with a drawn order of its tasks, on a clock that jumps."""
    run(backend, None, part, 40 if part in {"keys", "seats"} else 15)


@pytest.mark.parametrize("postgres_server", NEWEST_SERVER, indirect=True)
@pytest.mark.parametrize("backend", BACKENDS)
def test_machine_on_postgres(backend: Backend, installed_dsn: str) -> None:
    """The same on PostgreSQL, on the real clock."""
    run(backend, installed_dsn, "all", 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_while_the_scheduler_starts(backend: Backend) -> None:
    """What the machine found on PostgreSQL: the run ends, however early it is asked to."""
    for hundredths in range(60):
        with live(backend) as world:
            connection = UnreliableDriver(InMemoryDriver())
            connection.delay = 0.1
            pgq = PgQueuer(connection)
            pgq.schedule("tick", RARELY)(_nothing)
            task = world.start(pgq.run, name="worker", handle_signals=False)
            world.advance(hundredths / 100)
            world.call(pgq.request_shutdown, 0)
            world.until(functools.partial(_has_ended, task), within=30)


async def _nothing(_schedule: Schedule) -> None:
    await anyio.lowlevel.checkpoint()


def _has_ended(task: LiveTask) -> bool:
    return not task.is_running
