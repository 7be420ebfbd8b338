"""One run of a worker, assembled: services that stop last, jobs that stop first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import uuid4

import anyio

from pgq_trio.abc import Backend
from pgq_trio.concurrency.services import ServiceGroup
from pgq_trio.errors import ConnectionLost
from pgq_trio.executors import AbstractEntrypointExecutor
from pgq_trio.model.events import Event, OutcomeRefused
from pgq_trio.model.outcomes import Outcome
from pgq_trio.model.wire import (
    CancellationRequested,
    Channel,
    Event as NotifiedEvent,
    OutcomesWanted,
    TableChanged,
)
from pgq_trio.models import Context, ResourceMapping
from pgq_trio.types import JobId, QueueManagerId
from pgq_trio.worker.claimer import Claimer
from pgq_trio.worker.dispatcher import Dispatcher
from pgq_trio.worker.heartbeat import Heartbeat
from pgq_trio.worker.leases import Lease, Leases
from pgq_trio.worker.options import RunOptions
from pgq_trio.worker.outcomes import OutcomeWriter
from pgq_trio.worker.telling import Teller

#: How long the last outcomes and releases may take to be written, in seconds.
FLUSH_LIMIT = 10.0

#: Where a worker listens.
CHANNELS: tuple[Channel, ...] = ("work", "interest")

#: Told which part of a worker has a problem, and with None that it has none any more.
OnProblem = Callable[[str, str | None], None]


class Worker:
    """Everything one run of the queue needs; a new one for each run."""

    def __init__(
        self,
        backend: Backend,
        *,
        executors: Mapping[str, AbstractEntrypointExecutor],
        resources: ResourceMapping,
        options: RunOptions,
        emit: Callable[[Event], None] | None,
        on_problem: OnProblem,
    ) -> None:
        # A new id for each run: what an earlier run left behind is not ours, it is rescued.
        self.queue_manager_id: QueueManagerId = uuid4()
        self._emit = emit
        self._leases = leases = Leases()
        store, identity = backend.jobs, self.queue_manager_id
        limiter = anyio.CapacityLimiter(options.max_concurrent_jobs)
        for executor in executors.values():
            executor.limiter = limiter
        self._teller = Teller(backend.notifier)
        self._writer = OutcomeWriter(
            store,
            identity,
            leases,
            self._teller,
            on_refused=self._on_refused,
            on_problem=lambda problem: on_problem("outcomes", problem),
        )
        self._dispatcher = Dispatcher(
            executors=executors,
            resources=resources,
            leases=leases,
            writer=self._writer,
            max_concurrent_jobs=options.max_concurrent_jobs,
            emit=emit,
        )
        self._claimer = Claimer(
            store,
            identity,
            limits={name: x.parameters.concurrency_limit for name, x in executors.items()},
            options=options,
            leases=leases,
            dispatcher=self._dispatcher,
            writer=self._writer,
            on_problem=lambda problem: on_problem("claims", problem),
        )
        self._heartbeat = Heartbeat(
            store,
            identity,
            leases,
            timeout=options.heartbeat_timeout,
            on_problem=lambda problem: on_problem("heartbeat", problem),
        )

    def context_of(self, job_id: JobId) -> Context:
        """Return the context of a job that runs here now, else raise `UnknownJob`."""
        return self._leases.context_of(job_id)

    async def start_services(self, services: ServiceGroup) -> None:
        """Start what must outlive the jobs: outcome writer and heartbeat."""
        await services.start(self._writer.run, name="outcome writer")
        await services.start(self._heartbeat.run, name="heartbeat")

    def on_listening(self) -> None:
        """Catch up with what was missed: look for work, and ask who waits for outcomes."""
        self._claimer.notify()
        self._writer.greet()

    def take(self, event: NotifiedEvent) -> None:
        """Do what a notification asks for: look for work, cancel jobs, tell of outcomes."""
        match event:
            case TableChanged():
                if event.may_bring_work:
                    self._claimer.notify()
                else:
                    self._claimer.notify_gone()
            case CancellationRequested(ids):
                for job_id in ids:
                    self._leases.cancel_for_user(job_id)
            case OutcomesWanted():
                self._teller.want()
            case _:
                pass

    async def run(self) -> None:
        """Claim and run jobs until stopped or drained, and until the last of them has ended.

        Cancelled, it cancels all handlers at once. In every case what was claimed and not
        finished goes back to the queue; `hand_back` writes it.
        """
        try:
            async with anyio.create_task_group() as jobs:
                self._dispatcher.open(jobs)
                await self._claimer.run()
                await self._dispatcher.quiet()
                jobs.cancel_scope.cancel()  # only idle runners are left
        finally:
            self._dispatcher.close()

    def drain(self) -> None:
        """Begin to stop: claim nothing more, give back what waits, let running jobs end."""
        self._claimer.stop()
        self._dispatcher.close()

    def cancel_running(self) -> None:
        """End the grace period: cancel what still runs, reason *shutting down*."""
        self._dispatcher.cancel_running()

    async def hand_back(self) -> None:
        """Write the last outcomes and queue interrupted jobs again, shielded, with a deadline.

        Raises:
            ConnectionLost: the store could not be reached in time; those jobs are rescued after
                the heartbeat timeout.
        """
        with anyio.move_on_after(FLUSH_LIMIT, shield=True):
            await self._writer.flush()
        if len(self._writer):
            raise ConnectionLost(
                f"{len(self._writer)} outcomes could not be written within {FLUSH_LIMIT:g} s of "
                "the shutdown; their jobs run again when their leases expire"
            )

    def _on_refused(self, lease: Lease, outcome: Outcome) -> None:
        # Cancelling by id has deleted the row and logged it already: nothing is lost then.
        if self._emit is not None and outcome.kind != "canceled":
            self._emit(OutcomeRefused(lease.job, outcome.kind))
