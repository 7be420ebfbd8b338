"""Faults in the statements of the stores, and in the store in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pgq_trio.store import memory_jobs, memory_rows, memory_schedules, postgres_jobs, statements
from tests.property.mutants import mutant, replace

_JOBS = "test_agreement.py::test_jobs"
_SCHEDULES = "test_agreement.py::test_schedules"
_HISTORIES = "test_agreement.py::test_histories"
_RACES = "test_agreement_races.py::test_as_if_one_by_one"
_LIMITS = "test_agreement_races.py::test_limits_hold"


def rewrite(name: str, *changes: tuple[str, str]) -> None:
    """Change the text of a statement until the process ends."""
    original: Callable[[str], str] = statements._template

    def template(wanted: str) -> str:
        text = original(wanted)
        for old, new in changes if wanted == name else ():
            assert old in text, f"{name}.sql does not say {old!r} any more"
            text = text.replace(old, new)
        return text

    replace(statements, "_template", template)


@mutant("the end of a job does not prove its claim", _JOBS)
def finish_without_fence() -> None:
    rewrite(
        "finish",
        ("AND q.updated = claim.updated", ""),
        ("AND job.updated = owned.updated", ""),
    )


@mutant("a heartbeat does not prove whose claim it is", _JOBS)
def heartbeat_of_anybody() -> None:
    whose = "IS NOT DISTINCT FROM $1::uuid"
    rewrite("heartbeat", (whose, "IS NOT NULL AND $1::uuid IS NOT NULL"))


@mutant("a requeued job keeps its attempts", _JOBS)
def requeue_keeps_attempts() -> None:
    rewrite("requeue", ("attempts = 0,", ""))


@mutant("what is due just now is claimed a microsecond early", _JOBS)
def claim_on_the_dot() -> None:
    rewrite("claim", ("+ interval '0' < now()", "<= now()"))


@mutant("a lease ends a moment early", _JOBS)
def lease_too_short() -> None:
    rewrite("claim", ("q.heartbeat < now()", "q.heartbeat <= now()"))


@mutant("a release wakes nobody", _JOBS)
def silent_release() -> None:
    rewrite("release", ("WHERE EXISTS (SELECT FROM released)", "WHERE false"))


@mutant("a cancelled job frees its slot without a word", _JOBS)
def silent_slot() -> None:
    rewrite("cancel", ("status = 'picked' AND slot IS NOT NULL", "false"))


@mutant("with the short history a rescue is not logged", _JOBS)
def rescue_unlogged() -> None:
    rewrite("claim", ("WHERE $5::bool OR id IN (SELECT id FROM stale)", "WHERE $5::bool"))


@mutant("an attempt that failed keeps its slot in memory", _JOBS)
def slot_kept() -> None:
    original = memory_rows.JobTable.make_failed

    def make_failed(self: Any, row: Any) -> None:
        slot = row.slot
        original(self, row)
        row.slot = slot

    replace(memory_rows.JobTable, "make_failed", make_failed)


@mutant("a key is given away while its job waits for a retry, in memory", _JOBS)
def key_lost_in_retry() -> None:
    original = memory_jobs.MemoryJobs._queue_again

    def queue_again(self: Any, row: Any, execute_after: Any, now: Any) -> None:
        original(self, row, execute_after, now)
        row.dedupe_key = None

    replace(memory_jobs.MemoryJobs, "_queue_again", queue_again)


@mutant("a fire is claimed by an old look at it", _SCHEDULES)
def old_look_claims() -> None:
    rewrite("schedule_claim", ("= $3::timestamptz", "IS NOT NULL AND $3::timestamptz IS NOT NULL"))


@mutant("a paused schedule that runs is queued again at its end, in memory", _SCHEDULES)
def pause_forgotten() -> None:
    original = memory_schedules.MemorySchedules.finish

    async def finish(self: Any, schedule: Any, **options: Any) -> Any:
        row = self._rows.get(schedule.id)
        if row is not None and row.status == "canceled":
            self._rows[row.id] = dataclasses.replace(row, status="picked")
        return await original(self, schedule, **options)

    replace(memory_schedules.MemorySchedules, "finish", finish)


@mutant("log rows are counted twice", _HISTORIES)
def folded_twice() -> None:
    rewrite("expire", ("WHERE NOT aggregated", "WHERE true"))


@mutant("what is deleted is not counted before", _HISTORIES)
def deleted_uncounted() -> None:
    rewrite("expire", ("WHERE NOT aggregated", "WHERE false"))


@mutant("statistics are written in no order", _HISTORIES)
def statistics_unordered() -> None:
    rewrite("fold", ("ORDER BY date_trunc('sec', created)", "ORDER BY entrypoint"))


@mutant("a claim does not lock what it takes", _RACES)
def claim_without_lock() -> None:
    rewrite("claim", ("FOR UPDATE SKIP LOCKED", ""))


@mutant("a release does not look again after it has waited", _RACES)
def release_without_recheck() -> None:
    rewrite("release", ("AND job.updated = ANY($3::timestamptz[])", ""),
            ("AND job.queue_manager_id IS NOT DISTINCT FROM $1::uuid", ""))  # fmt: skip


@mutant("a requeue chooses before it has waited for those it chooses from", _RACES)
def requeue_chooses_early() -> None:
    rewrite("requeue", ("    ORDER BY job.id\n    FOR UPDATE\n", ""))


@mutant("a requeue that lost a race for a key is not repeated", _RACES)
def requeue_not_repeated() -> None:
    async def requeue(self: Any, ids: Any) -> set[int]:
        rows = await self._sql.fetch(self._statements["requeue"], [list(ids), self._log_all])
        return {row[0] for row in rows if row[0] is not None}

    replace(postgres_jobs.PostgresJobs, "requeue", requeue)


@mutant("new keys are inserted in the order they were given in", _RACES)
def keys_in_any_order() -> None:
    rewrite("enqueue", ('ORDER BY dedupe_key COLLATE "C", place', "ORDER BY place"))


@mutant("new keys are skipped in the order they were given in", _RACES)
def skipped_in_any_order() -> None:
    rewrite("enqueue_skip", ('ORDER BY dedupe_key COLLATE "C", place', "ORDER BY place"))


@mutant("a claim takes jobs with a limit, but no seats for them", _LIMITS)
def slotless_claim() -> None:
    seat = "(SELECT seated.slot FROM seated WHERE seated.id = job.id)"
    rewrite("claim_limited", (f"ELSE {seat}", "ELSE NULL::bigint"))


@mutant("two claims of the last seat do not exclude each other", _LIMITS)
def last_seat_twice() -> None:
    rewrite("claim_limited", ("FOR UPDATE SKIP LOCKED", ""), ("least(entry.seats,", "least("))
