"""Faults in fences and leases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel

from pgq_trio.model import outcomes
from pgq_trio.store import memory_jobs, memory_rows
from pgq_trio.worker import heartbeat
from tests.property.mutants import mutant, replace


@mutant("writes do not prove that they own the row", "test_faults.py::test_a_stale_owner")
def no_fence() -> None:
    def owned(self: Any, _queue_manager_id: object, claim: outcomes.Claim) -> Any:
        row = self._table.rows.get(claim.job_id)
        return row if row is not None and row.status == "picked" else None

    replace(memory_jobs.MemoryJobs, "_owned", owned)


@mutant("leases are not renewed", "test_faults.py::test_a_job_longer_than_its_lease")
def no_heartbeat() -> None:
    async def beat(_self: object) -> None:
        await anyio.lowlevel.checkpoint()

    replace(heartbeat.Heartbeat, "_beat", beat)


@mutant(
    "leases are judged by a clock an hour ahead", "test_faults.py::test_a_job_longer_than_its_lease"
)
def wrong_lease_clock() -> None:
    original = memory_rows.JobTable.stale

    def stale(self: Any, before: datetime) -> Any:
        return original(self, before + timedelta(hours=1))

    replace(memory_rows.JobTable, "stale", stale)


@mutant("a stale owner's outcome is written a second time", "test_faults.py::test_a_stale_owner")
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
