"""Renewing the leases of all jobs of this run at once, so that handlers need not care."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import JobStore
from pgq_trio.answers import ANSWER_LIMIT, answer_to
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.errors import StoreError
from pgq_trio.types import CancelReason, QueueManagerId
from pgq_trio.worker.leases import Leases

#: Heartbeats in one lease: two may fail before the third comes too late.
BEATS = 3


class Heartbeat:
    """The service that keeps leases alive and learns which are lost."""

    def __init__(
        self,
        store: JobStore,
        queue_manager_id: QueueManagerId,
        leases: Leases,
        *,
        timeout: float,
        on_problem: Callable[[str | None], None],
    ) -> None:
        self._store = store
        self._queue_manager_id = queue_manager_id
        self._leases = leases
        self._interval = timeout / BEATS
        self._on_problem = on_problem

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Beat until cancelled; sends nothing while there is no lease."""
        task_status.started()
        backoff = Backoff(maximum=min(1.0, self._interval))
        while True:
            await anyio.sleep(self._interval)
            while self._leases:
                try:
                    await self._beat()
                except StoreError as exc:
                    if not exc.retryable:
                        raise
                    self._on_problem(str(exc))
                    await anyio.sleep(backoff.next())
                else:
                    self._on_problem(None)
                    backoff.reset()
                    break

    async def _beat(self) -> None:
        sent = [(lease, lease.claim) for lease in self._leases]
        beat = self._store.heartbeat(self._queue_manager_id, [claim for _, claim in sent])
        owned = await answer_to("a heartbeat", beat, limit=min(ANSWER_LIMIT, self._interval))
        for lease, claim in sent:
            # Under a newer claim, or on its way to the store, a lease is judged elsewhere.
            if claim.job_id not in owned and lease.claim == claim and not lease.ending:
                lease.cancel(CancelReason.lease_lost)
