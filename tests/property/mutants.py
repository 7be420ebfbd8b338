"""Faults planted on purpose: a property is believed when it fails on the broken library.

`PGQ_MUTANT=name pytest ...` plants one for a whole run (see conftest.py). `just mutants` runs for
each the property that has to find it, and fails when one survives.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel

from pgq_trio import models
from pgq_trio.concurrency import closing
from pgq_trio.model import outcomes
from pgq_trio.store import memory_jobs, memory_rows, memory_schedules, memory_state
from pgq_trio.worker import claimer, dispatcher, heartbeat, leases, worker

MUTANT = "PGQ_MUTANT"

_QUEUE = "tests/property/test_queue.py"
_FAULTS = "tests/property/test_faults.py"
_RESOURCES = "tests/property/test_resources_contract.py"


@dataclass(frozen=True)
class Mutant:
    """A fault, how to plant it, and the property that finds it."""

    name: str
    what: str
    killer: str
    plant: Callable[[], object]


_MUTANTS: list[Mutant] = []


def mutant(what: str, killer: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register a fault under the name of the function that plants it."""

    def register(plant: Callable[[], object]) -> Callable[[], object]:
        _MUTANTS.append(Mutant(plant.__name__, what, killer, plant))
        return plant

    return register


def replace(owner: object, name: str, value: object) -> None:
    """Put something else in a place until the process ends."""
    patch.object(owner, name, value).start()


# ---------------------------------------------------------------------- fences and leases


@mutant("writes do not prove that they own the row", f"{_FAULTS}::test_a_stale_owner")
def no_fence() -> None:
    def owned(self: Any, _queue_manager_id: object, claim: outcomes.Claim) -> Any:
        row = self._table.rows.get(claim.job_id)
        return row if row is not None and row.status == "picked" else None

    replace(memory_jobs.MemoryJobs, "_owned", owned)


@mutant("leases are not renewed", f"{_FAULTS}::test_a_job_longer_than_its_lease")
def no_heartbeat() -> None:
    async def beat(_self: object) -> None:
        await anyio.lowlevel.checkpoint()

    replace(heartbeat.Heartbeat, "_beat", beat)


@mutant(
    "leases are judged by a clock an hour ahead", f"{_FAULTS}::test_a_job_longer_than_its_lease"
)
def wrong_lease_clock() -> None:
    original = memory_rows.JobTable.stale

    def stale(self: Any, before: datetime) -> Any:
        return original(self, before + timedelta(hours=1))

    replace(memory_rows.JobTable, "stale", stale)


@mutant("a stale owner's outcome is written a second time", f"{_FAULTS}::test_a_stale_owner")
def double_finish() -> None:
    original = memory_jobs.MemoryJobs.finish

    async def finish(
        self: Any, queue_manager_id: Any, finished: Sequence[outcomes.Finished]
    ) -> Any:
        written = await original(self, queue_manager_id, finished)
        for claim, outcome in finished:
            entry = next((x for x in self._state.log if x.job_id == claim.job_id), None)
            if claim.job_id not in written and entry is not None:
                row = memory_rows.Row(
                    id=entry.job_id, priority=0, created=entry.created, updated=entry.created,
                    heartbeat=entry.created, execute_after=entry.created,
                    entrypoint=entry.entrypoint, payload=None, headers=None, dedupe_key=None,
                )  # fmt: skip
                self._state.write_log(row, outcome.kind, entry.created)
        return written

    replace(memory_jobs.MemoryJobs, "finish", finish)


# ---------------------------------------------------------------------- shields and cancellation


@mutant("a claim can be abandoned half way", f"{_QUEUE}::test_cancelled_at_every_step")
def no_shield_around_claims() -> None:
    async def answer_to(_what: str, statement: Awaitable[Any], **_options: object) -> Any:
        return await statement

    replace(claimer, "answer_to", answer_to)


@mutant("what is written at the end is not shielded", f"{_QUEUE}::test_cancelled_at_every_step")
def no_shield_around_the_end() -> None:
    async def hand_back(self: Any) -> None:
        await self._writer.flush()

    replace(worker.Worker, "hand_back", hand_back)


@mutant("the last outcomes are dropped", f"{_QUEUE}::test_cancelled_at_every_step")
def no_last_flush() -> None:
    async def hand_back(_self: object) -> None:
        await anyio.lowlevel.checkpoint()

    replace(worker.Worker, "hand_back", hand_back)


@mutant("a job's cancellation counts as its success", f"{_QUEUE}::test_a_requested_shutdown")
def swallowed_cancel() -> None:
    original = dispatcher._execute

    async def execute(*args: Any) -> Exception | None:
        try:
            return await original(*args)
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - that is the fault
            return None  # noqa: ASYNC104 - that is the fault

    replace(dispatcher, "_execute", execute)


@mutant("an interrupted job is not queued again", f"{_QUEUE}::test_a_requested_shutdown")
def interrupted_is_lost() -> None:
    def interrupted(self: Any, lease: Any) -> None:
        self._leases.drop(lease)

    replace(dispatcher.Dispatcher, "_interrupted", interrupted)


# ---------------------------------------------------------------------- claiming


@mutant("a claim takes more than can run", f"{_QUEUE}::test_claims_are_bounded")
def over_fetch() -> None:
    replace(claimer.Claimer, "_room", lambda _self: (1000, 1000))


@mutant("jobs with a limit are claimed ahead", f"{_QUEUE}::test_claims_are_bounded")
def seats_claimed_ahead() -> None:
    original = claimer.Claimer._room

    def room(self: Any) -> tuple[int, int]:
        batch, _ = original(self)
        return batch, batch

    replace(claimer.Claimer, "_room", room)


@mutant("deferred jobs are taken before they are due", f"{_QUEUE}::test_deferred_never_early")
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


@mutant("limits are not looked at", f"{_QUEUE}::test_a_drained_queue")
def no_limits() -> None:
    replace(memory_rows.JobTable, "free_slot", lambda _self, _entrypoint, _limit: 0)


@mutant("the lowest priority goes first", f"{_QUEUE}::test_priority_then_id")
def wrong_order() -> None:
    original = memory_jobs.MemoryJobs.claim

    async def claim(self: Any, request: Any) -> Any:
        claimed = await original(self, request)
        claimed.jobs.reverse()
        return claimed

    replace(memory_jobs.MemoryJobs, "claim", claim)


# ---------------------------------------------------------------------- waking


@mutant("a wake-up between the look and the wait is lost", f"{_QUEUE}::test_no_wake_up_is_lost")
def lost_wake_up() -> None:
    original = claimer.Claimer._claim

    async def claim(self: Any, *args: Any) -> Any:
        claimed = await original(self, *args)
        self._next_look = math.inf
        self._wakeup.clear()
        return claimed

    replace(claimer.Claimer, "_claim", claim)


@mutant("a requeued job wakes nobody", f"{_QUEUE}::test_no_wake_up_is_lost")
def updates_wake_nobody() -> None:
    original = memory_state.MemoryState.wake

    def wake(self: Any, operation: str, now: datetime) -> None:
        if operation != "update":
            original(self, operation, now)

    replace(memory_state.MemoryState, "wake", wake)


@mutant(
    "a schedule's claim does not look whether it is too late", f"{_QUEUE}::test_a_schedule_fires"
)
def schedule_without_fence() -> None:
    original = memory_schedules.MemorySchedules.claim

    async def claim(self: Any, schedule: Any, **options: Any) -> Any:
        row = self._rows.get(schedule.id)
        return await original(self, row or schedule, **options) or row

    replace(memory_schedules.MemorySchedules, "claim", claim)


# ---------------------------------------------------------------------- resources


@mutant("each job gets a copy of the resources", f"{_RESOURCES}::test_identity_and_mutation")
def copied_resources() -> None:
    original = models.Context

    def context(*, resources: Any, **fields: Any) -> Any:
        return original(resources=dict(resources), **fields)

    replace(dispatcher, "Context", context)


@mutant("a job's context outlives the job", f"{_RESOURCES}::test_access_ends_with_the_job")
def stale_context() -> None:
    kept: dict[int, Any] = {}
    original = leases.Leases.context_of

    def context_of(self: Any, job_id: int) -> Any:
        try:
            kept[job_id] = original(self, job_id)
        except KeyError:
            if job_id not in kept:
                raise
        return kept[job_id]

    replace(leases.Leases, "context_of", context_of)
    from pgq_trio import core

    last: list[Any] = []
    begin = core.Core._begin

    def remember(self: Any, **options: Any) -> Any:
        engine = begin(self, **options)
        last.append(engine)
        return engine

    replace(core.Core, "_begin", remember)
    replace(core.Core, "context_of", lambda _self, job_id: last[-1].context_of(job_id))


@mutant("members are closed first in, first out", f"{_RESOURCES}::test_the_ready_container")
def first_in_first_out() -> None:
    original = closing.ClosingStack.close

    async def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._entries.reverse()
        return await original(self, *args, **kwargs)

    replace(closing.ClosingStack, "close", close)


# ---------------------------------------------------------------------- running them


def plant_from_environment() -> None:
    """Plant the fault that the environment names, if it names one."""
    name = os.environ.get(MUTANT)
    if name:
        next(mutant for mutant in _MUTANTS if mutant.name == name).plant()


def find(mutant: Mutant) -> str | None:
    """Run the killer of a mutant; return the property that failed, None when it survives."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--show-capture=no",
         "-p", "no:cacheprovider", mutant.killer.split("::")[0],
         "-k", mutant.killer.split("::")[1] + " and trio"],
        env=os.environ | {MUTANT: mutant.name},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED ")]
    if result.returncode == 1 and failed:
        return failed[0].removeprefix("FAILED ").split(" - ")[0]
    if result.returncode != 0:
        raise SystemExit(f"{mutant.name}: {result.stdout[-2000:]}{result.stderr[-2000:]}")
    return None


def main(names: Sequence[str]) -> int:
    """Print which property kills which mutant; return 1 when one survives."""
    survivors = 0
    for mutant in _MUTANTS:
        if names and mutant.name not in names:
            continue
        killer = find(mutant)
        survivors += killer is None
        print(f"{mutant.name:28} {killer or 'SURVIVES':80} {mutant.what}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
