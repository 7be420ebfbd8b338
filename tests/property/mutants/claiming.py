"""Faults in what is claimed and who is woken."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from pgq_trio.store import memory_jobs, memory_rows, memory_schedules, memory_state
from pgq_trio.worker import claimer
from tests.property.mutants import mutant, replace


@mutant("a claim takes more than can run", "test_queue.py::test_claims_are_bounded")
def over_fetch() -> None:
    replace(claimer.Claimer, "_room", lambda _self: (1000, 1000))


@mutant("jobs with a limit are claimed ahead", "test_queue.py::test_claims_are_bounded")
def seats_claimed_ahead() -> None:
    original = claimer.Claimer._room

    def room(self: Any) -> tuple[int, int]:
        batch, _ = original(self)
        return batch, batch

    replace(claimer.Claimer, "_room", room)


@mutant("deferred jobs are taken before they are due", "test_queue.py::test_deferred_never_early")
def early_deferred() -> None:
    original = memory_rows.JobTable.promote

    def promote(self: Any, entrypoint: str, now: datetime) -> None:
        original(self, entrypoint, now + timedelta(seconds=1))

    best = memory_rows.JobTable.best
    replace(memory_rows.JobTable, "promote", promote)
    replace(
        memory_rows.JobTable,
        "best",
        lambda self, entrypoint, now: best(self, entrypoint, now + timedelta(seconds=1)),
    )


@mutant("limits are not looked at", "test_queue.py::test_a_drained_queue")
def no_limits() -> None:
    replace(memory_rows.JobTable, "free_slot", lambda _self, _entrypoint, _limit: 0)


@mutant("the lowest priority goes first", "test_queue.py::test_priority_then_id")
def wrong_order() -> None:
    original = memory_jobs.MemoryJobs.claim

    async def claim(self: Any, request: Any) -> Any:
        claimed = await original(self, request)
        claimed.jobs.reverse()
        return claimed

    replace(memory_jobs.MemoryJobs, "claim", claim)


@mutant("a wake-up between the look and the wait is lost", "test_queue.py::test_no_wake_up_is_lost")
def lost_wake_up() -> None:
    original = claimer.Claimer._claim

    async def claim(self: Any, *args: Any) -> Any:
        claimed = await original(self, *args)
        self._next_look = math.inf
        self._wakeup.clear()
        return claimed

    replace(claimer.Claimer, "_claim", claim)


@mutant("a requeued job wakes nobody", "test_queue.py::test_no_wake_up_is_lost")
def updates_wake_nobody() -> None:
    original = memory_state.MemoryState.wake

    def wake(self: Any, operation: str, now: datetime) -> None:
        if operation != "update":
            original(self, operation, now)

    replace(memory_state.MemoryState, "wake", wake)


@mutant(
    "a schedule's claim does not look whether it is too late",
    "test_queue.py::test_a_schedule_fires",
)
def schedule_without_fence() -> None:
    original = memory_schedules.MemorySchedules.claim

    async def claim(self: Any, schedule: Any, **options: Any) -> Any:
        row = self._rows.get(schedule.id)
        return await original(self, row or schedule, **options) or row

    replace(memory_schedules.MemorySchedules, "claim", claim)
