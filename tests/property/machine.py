"""A drawn program against the queue and a plain Python model of it, in memory and on PostgreSQL.

Hypothesis draws commands of users (machine_users.py), workers that come, go and die, and time that
passes (machine_workers.py). Some follow each other at once, so that they hit what runs half way.
When all is quiet (machine_rest.py) the queue has to be as the model says (machine_model.py,
machine_fires.py, compared in machine_checks.py): no job lost, none invented, one outcome each,
limits, order, attempts, keys, leases, due times, fire times, shared resources. At the end a healthy
worker does all that can be done. What it all runs on is in machine_worlds.py.
"""

from __future__ import annotations

from pgq_trio.testing import Backend
from tests.property.machine_model import MAX_ATTEMPTS
from tests.property.machine_rest import PATIENCE
from tests.property.machine_users import Users
from tests.property.machine_workers import Workers
from tests.property.machine_worlds import LEASE, Worker


class Machine(Users, Workers):
    """The program, and how it ends."""

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


def machine(backend: Backend, dsn: str | None = None, *commands: str) -> type[Machine]:
    """Return the programs of these commands, or of all, in memory or in a database."""
    names = frozenset(commands) or None
    return type("Machine", (Machine,), {"backend": backend, "dsn": dsn, "commands": names})
