"""The world of the machine: how a command begins and ends, and what is looked at once all rests.

The rules are elsewhere (machine_users.py, machine_workers.py); this room knows what they share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition

from pgq_trio.testing import Backend, LiveWorld, interleavings, live
from pgq_trio.types import JobId
from tests.property.machine_checks import Checks
from tests.property.machine_fires import Fires
from tests.property.machine_model import BOUND, Model, View
from tests.property.machine_worlds import Place, PostgresPlace, Worker, look

#: Seconds in which all has to be quiet on PostgreSQL, on a machine with much else to do.
PATIENCE = 30.0

#: What a rule leaves behind: whether what it began may come to rest before the next one.
thens = st.sampled_from(["and then", "at once"])
entrypoints = st.sampled_from(["plain", "limited", "held"])
some = st.integers(0, 10)

Command = Callable[..., None]


def when(
    condition: Callable[[Any], object] = lambda _machine: True,
) -> Callable[[Command], Command]:
    """Leave a command out where it does nothing, and where it is no part of the program.

    On the real clock the former is known when it comes to it: which commands can be drawn must not
    depend on how fast the machine is.
    """

    def decorate(command: Command) -> Command:
        name = command.__name__

        @functools.wraps(command)
        def run_or_not(self: World, **arguments: Any) -> None:
            if condition(self):
                command(self, **arguments)

        def can_be_drawn(self: World) -> bool:
            is_part = self.commands is None or name in self.commands
            return is_part and (self.dsn is not None or bool(condition(self)))

        return precondition(can_be_drawn)(run_or_not)

    return decorate


class World(RuleBasedStateMachine):
    """Where the programs run.

    Attributes:
        dsn: of the database, None in memory.
        commands: those that can be drawn, None is all: programs of few commands come to where
            these meet sooner than programs of all.
    """

    backend: Backend = "trio"
    dsn: str | None = None
    commands: frozenset[str] | None = None

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

    @property
    def open_jobs(self) -> list[JobId]:
        """The jobs that have not ended, as far as is known."""
        return [task.id for task in self.model.tasks.values() if task.state == "open"]

    def begin_worker(self, maximum: int) -> Worker:
        """Start one more."""
        self.number += 1
        worker = Worker(
            f"worker {self.number}", self.place, self.model, self.fires, self.gates, maximum
        )
        self.workers.append(worker)
        worker.task = self.world.start(worker.run, name=worker.name)
        return worker

    def open_gate(self, job_id: JobId) -> None:
        """Let one job end, on the event loop."""
        self.gates.setdefault(job_id, anyio.Event()).set()

    # ------------------------------------------------------------------ rest, and look

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
        checks = Checks(self.model, view, self.living)
        return (
            checks.mismatch()
            or checks.overdue_rescue(self.place.expired_before(view.now))
            or (checks.out_of_order(self.place.time_of) if self.dsn is None else None)
            or self.fires.wrong(row, self.place.wall(), view.now, is_served=is_served)
        )
