"""Faults that show only when something else goes wrong: outages, stalls, deaths, odd messages."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel

from pgq_trio import listening
from pgq_trio.answers import answer_to
from pgq_trio.errors import ListenerLost, StoreError
from pgq_trio.model import outcomes as model
from pgq_trio.model.wire import parse_event
from pgq_trio.scheduler import timetable
from pgq_trio.store import memory_jobs, memory_rows, memory_schedules
from pgq_trio.worker import claimer, heartbeat, leases, outcomes
from tests.property.mutants import mutant, replace

_LOST = "test_faults.py::test_no_job_is_lost"


@mutant("a worker does not notice that it lost a lease", _LOST)
def lost_lease_unnoticed() -> None:
    async def beat(self: Any) -> None:
        claims = [lease.claim for lease in self._leases]
        await answer_to("a heartbeat", self._store.heartbeat(self._queue_manager_id, claims))

    replace(heartbeat.Heartbeat, "_beat", beat)


@mutant("a rescue is no attempt", _LOST)
def free_rescue() -> None:
    original = memory_jobs.MemoryJobs._pick

    def pick(self: Any, row: memory_rows.Row, *args: Any) -> None:
        attempts = row.attempts
        original(self, row, *args)
        row.attempts = attempts

    replace(memory_jobs.MemoryJobs, "_pick", pick)


@mutant("a job that goes back at a shutdown has spent an attempt", _LOST)
def shutdown_spends_an_attempt() -> None:
    original = memory_jobs.MemoryJobs.release

    async def release(self: Any, queue_manager_id: Any, claims: Sequence[model.Claim]) -> Any:
        released = await original(self, queue_manager_id, claims)
        for job_id in released:
            self._table.rows[job_id].attempts += 1
        return released

    replace(memory_jobs.MemoryJobs, "release", release)


@mutant("a rescued job gives its seat away", _LOST)
def rescue_frees_the_seat() -> None:
    original = memory_rows.JobTable.make_picked

    def make_picked(self: Any, row: memory_rows.Row, slot: int | None) -> None:
        is_rescue = row.status == "picked"
        original(self, row, slot)
        if is_rescue and row.slot is not None:
            self._queue(row.entrypoint).slots.discard(row.slot)
            self._queue(row.entrypoint).picked -= 1

    replace(memory_rows.JobTable, "make_picked", make_picked)


@mutant("after a claim that failed nobody looks again", _LOST)
def claims_give_up() -> None:
    original = claimer.Claimer._look

    async def look(self: Any, batch: int, limited: int) -> bool:
        ended = await original(self, batch, limited)
        if "claims" in self._outages:
            self._next_look = math.inf
        return ended

    def init(self: Any, *args: Any, on_problem: Any, **kwargs: Any) -> None:
        self._outages = set()

        def note(problem: str | None) -> None:
            (self._outages.discard if problem is None else self._outages.add)("claims")
            on_problem(problem)

        original_init(self, *args, on_problem=note, **kwargs)

    original_init = claimer.Claimer.__init__
    replace(claimer.Claimer, "__init__", init)
    replace(claimer.Claimer, "_look", look)


@mutant("nobody looks for leases that have expired", _LOST)
def no_look_for_the_dead() -> None:
    original = claimer.Claimer.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._idle = 600.0

    replace(claimer.Claimer, "__init__", init)


@mutant("outcomes are forgotten when the connection is lost", _LOST)
def outcomes_lost_with_the_connection() -> None:
    original = outcomes.OutcomeWriter._write

    async def write(self: Any, batch: list[Any]) -> None:
        try:
            await original(self, batch)
        except StoreError:
            for lease, _ in batch:
                self._leases.drop(lease)

    replace(outcomes.OutcomeWriter, "_write", write)


@mutant("a worker that rescues a job from itself runs it a second time", _LOST)
def rescued_from_itself() -> None:
    original = leases.Leases.add

    def add(self: Any, jobs: list[Any]) -> list[Any]:
        for job in jobs:
            lease = self._by_id.get(job.id)
            if lease is not None and not lease.ending:
                del self._by_id[job.id]
        return original(self, jobs)

    replace(leases.Leases, "add", add)


@mutant("a malformed notification ends the worker", _LOST)
def malformed_is_fatal() -> None:
    def parse(payload: str) -> Any:
        json.loads(payload)
        return parse_event(payload)

    replace(listening, "parse_event", parse)


@mutant("whoever lost its LISTEN does not listen again", "test_outcomes.py::test_each_end_is_told")
def deaf_after_a_cut() -> None:
    original = listening.Listener.run

    async def run(self: Any, *, task_status: Any) -> None:
        notifier = self._notifier

        class Once:
            def listen(self, *channels: Any) -> Any:
                return notifier.listen(*channels)

        self._notifier = Once()
        on_problem = self._on_problem

        def note(problem: str | None) -> None:
            on_problem(problem)
            if problem is not None:
                raise _GaveUpError

        self._on_problem = note
        try:
            await original(self, task_status=task_status)
        except _GaveUpError:
            await anyio.sleep_forever()

    replace(listening.Listener, "run", run)


class _GaveUpError(ListenerLost):
    def __init__(self) -> None:
        super().__init__("given up")


@mutant("a lease lasts a tenth less than it should", _LOST)
def short_leases() -> None:
    original = memory_rows.JobTable.stale

    def stale(self: Any, before: datetime) -> Any:
        return original(self, before + timedelta(seconds=0.3))

    replace(memory_rows.JobTable, "stale", stale)


_FIRES = "test_schedules.py::test_each_fire_time_is_answered_once"


@mutant("a schedule whose worker died is never fired again", _FIRES)
def dead_fire_stays() -> None:
    replace(timetable, "STALE_AFTER", 1e6)
    replace(timetable, "_STALE", timedelta(days=1000))


@mutant("a fire that is due may be claimed although somebody runs it", _FIRES)
def fires_are_not_exclusive() -> None:
    original = memory_schedules.MemorySchedules.claim

    async def claim(self: Any, schedule: Any, **options: Any) -> Any:
        row = self._rows.get(schedule.id)
        if row is not None and row.status == "picked":
            return row
        return await original(self, schedule, **options)

    replace(memory_schedules.MemorySchedules, "claim", claim)


@mutant("a run without an answer to its claim is fired at once again", _FIRES)
def heartbeats_of_fires_ignored() -> None:
    replace(timetable, "STALE_AFTER", 1.0)
    original = memory_schedules.MemorySchedules.claim

    async def claim(self: Any, schedule: Any, *, next_run: Any, heartbeat_timeout: float) -> Any:
        return await original(self, schedule, next_run=next_run, heartbeat_timeout=1.0)

    replace(memory_schedules.MemorySchedules, "claim", claim)
