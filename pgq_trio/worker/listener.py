"""Hearing what other processes say: work has come, or a job is to be cancelled."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import Notifier
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.errors import ListenerLost, StoreError
from pgq_trio.model.events import Event, NotificationIgnored
from pgq_trio.model.wire import CancellationRequested, Ignored, TableChanged, parse_event
from pgq_trio.types import CancelReason
from pgq_trio.worker.leases import Leases


class Listener:
    """The service that listens, and listens again after its connection was lost."""

    def __init__(
        self,
        notifier: Notifier,
        leases: Leases,
        *,
        on_work: Callable[[], None],
        on_problem: Callable[[str | None], None],
        emit: Callable[[Event], None] | None,
    ) -> None:
        self._notifier = notifier
        self._leases = leases
        self._on_work = on_work
        self._on_problem = on_problem
        self._emit = emit

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Listen until cancelled.

        Started once the first LISTEN is acknowledged, or has failed for a reason that passes:
        polling covers the gap then.
        """
        backoff = Backoff()
        serving = False

        def serve() -> None:
            nonlocal serving
            if not serving:
                serving = True
                task_status.started()

        while True:
            try:
                async with self._notifier.listen() as payloads:
                    backoff.reset()
                    self._on_problem(None)
                    # Listening first, looking second: nothing falls between the two.
                    self._on_work()
                    serve()
                    async for payload in payloads:
                        self._take(payload)
            except (ListenerLost, StoreError) as exc:
                if isinstance(exc, StoreError) and not exc.retryable:
                    raise
                self._on_problem(str(exc))
                serve()
            await anyio.sleep(backoff.next())

    def _take(self, payload: str) -> None:
        match parse_event(payload):
            case TableChanged() as event:
                if event.may_bring_work:
                    self._on_work()
            case CancellationRequested(ids):
                for job_id in ids:
                    lease = self._leases.get(job_id)
                    if lease is not None:
                        lease.cancel(CancelReason.user)
            case Ignored(problem):
                if problem is not None and self._emit is not None:
                    self._emit(NotificationIgnored(problem))
