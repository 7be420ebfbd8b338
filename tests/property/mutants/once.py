"""Faults in what may happen once only: a key's job, a cancellation, an interrupted run."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from pgq_trio.postgres.pool import ConnectionPool
from pgq_trio.store import memory_jobs, memory_rows
from tests.property.mutants import mutant, replace


@mutant("a dedupe key that is taken is given again", "test_queue.py::test_one_job_a_key")
def keys_given_again() -> None:
    replace(memory_rows.JobTable, "key_owner", lambda _self, _key: None)


@mutant(
    "a job that runs when it is cancelled ends twice",
    "test_queue.py::test_cancelling_one_job",
)
def cancelled_and_ended() -> None:
    original = memory_jobs.MemoryJobs.finish

    async def finish(self: Any, queue_manager_id: Any, finished: Any) -> Any:
        written = await original(self, queue_manager_id, finished)
        now = self._state.now()
        for claim, outcome in finished:
            ends = [x for x in self._state.log if x.job_id == claim.job_id]
            if claim.job_id not in written and ends and outcome.kind != "queued":
                row = memory_rows.Row(
                    id=claim.job_id, priority=0, created=now, updated=now, heartbeat=now,
                    execute_after=now, entrypoint=ends[0].entrypoint, payload=None, headers=None,
                    dedupe_key=None,
                )  # fmt: skip
                self._state.write_log(row, outcome.kind, now)
        return written

    replace(memory_jobs.MemoryJobs, "finish", finish)


@mutant("what an interrupted worker hands back is gone", "test_queue.py::test_cancelled_anywhere")
def handed_back_is_gone() -> None:
    async def release(self: Any, queue_manager_id: Any, claims: Any) -> Any:
        rows = [self._owned(queue_manager_id, claim) for claim in claims]
        owned = [row for row in rows if row is not None]
        await anyio.lowlevel.checkpoint()
        for row in owned:
            self._table.remove(row)
        return {row.id for row in owned}

    replace(memory_jobs.MemoryJobs, "release", release)


@mutant(
    "who waits for a connection waits for ever",
    "test_postgres_pool.py::test_who_waits_too_long_gives_up_the_turn",
)
def endless_patience() -> None:
    original = ConnectionPool._acquire

    async def acquire(self: Any, _timeout: float) -> Any:
        return await original(self, 1e6)

    replace(ConnectionPool, "_acquire", acquire)
