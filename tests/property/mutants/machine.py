"""Faults that show only in a program: after a kill, a stop, a requeue, a silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import timedelta
from typing import Any

from pgq_trio.store import memory_jobs, memory_rows, memory_schedules
from pgq_trio.worker import dispatcher, worker
from tests.property.mutants import mutant, replace

_KEYS = "test_machine.py::test_machine_of_keys"
_STOPS = "test_machine.py::test_machine_of_stops"
_SEATS = "test_machine.py::test_machine_of_seats"
_SCHEDULES = "test_machine.py::test_machine_of_schedules"


@mutant("a held job keeps its dedupe key", _KEYS)
def held_keeps_its_key() -> None:
    original = memory_rows.JobTable.make_failed

    def make_failed(self: Any, row: Any) -> None:
        original(self, row)
        if row.dedupe_key is not None:
            self._by_key[row.dedupe_key] = row.id

    replace(memory_rows.JobTable, "make_failed", make_failed)


@mutant("a worker that is to stop goes on claiming", _STOPS)
def stops_but_claims() -> None:
    replace(worker.Worker, "drain", lambda self: self._dispatcher.close())


@mutant("the grace period never ends", _STOPS)
def endless_grace() -> None:
    replace(dispatcher.Dispatcher, "cancel_running", lambda _self: None)


@mutant("a paused schedule is fired by a trigger", _SCHEDULES)
def trigger_resumes() -> None:
    original = memory_schedules.MemorySchedules.trigger

    async def trigger(self: Any, **which: Any) -> set[int]:
        await self.resume(**which)
        return await original(self, **which)

    replace(memory_schedules.MemorySchedules, "trigger", trigger)


@mutant("a schedule that is resumed forgets what it missed", _SCHEDULES)
def resume_forgets() -> None:
    original = memory_schedules.MemorySchedules.resume

    async def resume(self: Any, **which: Any) -> set[int]:
        resumed = await original(self, **which)
        for number in resumed:
            row = self._rows[number]
            now = self._state.now()
            missed = max(0, int((now - row.next_run).total_seconds() // 30) + 1)
            self._rows[number] = changed(
                row, next_run=row.next_run + timedelta(seconds=30 * missed)
            )
        return resumed

    replace(memory_schedules.MemorySchedules, "resume", resume)


@mutant("jobs that wait in a worker that stops stay its own", _STOPS)
def stop_keeps_what_waits() -> None:
    def give_back_waiting(self: Any) -> None:
        while self._waiting:
            self._leases.drop(self._waiting.popleft())
        self._say_if_quiet()

    replace(dispatcher.Dispatcher, "_give_back_waiting", give_back_waiting)


@mutant("a running job that is cancelled or cleared keeps its seat", _SEATS)
def seats_of_the_deleted() -> None:
    original = memory_jobs.MemoryJobs._remove

    def remove(self: Any, rows: Sequence[Any], *args: Any) -> None:
        seated = [row.entrypoint for row in rows if row.slot is not None]
        original(self, rows, *args)
        for entrypoint in seated:
            self._table._queue(entrypoint).picked += 1

    replace(memory_jobs.MemoryJobs, "_remove", remove)
