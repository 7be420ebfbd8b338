"""What befalls workers in the programs of the machine, time, and the schedule that they fire."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.property.machine_model import BOUND
from tests.property.machine_rest import World, some, thens, when
from tests.property.machine_worlds import Worker, look

#: Workers at a time.
MOST = 3


class Workers(World):
    """The commands that are about workers, and the schedule that they fire."""

    @rule(maximum=st.sampled_from([1, 1, 2, 10]), then=thens)
    @when(lambda self: len(self.living) < MOST)
    def start_worker(self, maximum: int, then: str) -> None:
        """Start one more."""
        with self.step(then):
            self.begin_worker(maximum)

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
