"""`PgQueuer`: the one composition root; it opens, runs and closes everything in order.

connections → resources → services → scheduler and queue loops → one cancel scope per job
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Self, Unpack

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import Driver, Observer
from pgq_trio.client.queries import Queries
from pgq_trio.concurrency.errors import raise_as_itself, unwrapped
from pgq_trio.concurrency.outside import deaf
from pgq_trio.core import Core
from pgq_trio.db import InMemoryDriver
from pgq_trio.managers import RegistersEntrypoints, RegistersSchedules
from pgq_trio.models import ResourceMapping
from pgq_trio.qm import QueueManager
from pgq_trio.resources import ResourcesSource, opened_resources
from pgq_trio.settings import Settings
from pgq_trio.sm import SchedulerManager
from pgq_trio.targets import Target, open_target
from pgq_trio.worker.options import RunArguments, RunOptions

__all__ = ["PgQueuer"]


class PgQueuer(RegistersEntrypoints, RegistersSchedules):
    """A job queue and scheduler on one database with one shared container.

    `async with PgQueuer.open(...)` makes one with everything opened and closed for you. The
    constructor takes a driver and a plain mapping whose lives are the caller's.

    Attributes:
        qm: the queue's side of this application.
        sm: the scheduler's side of it.
    """

    def __init__(
        self,
        driver_or_queries: Driver | Queries | Core,
        *,
        resources: ResourceMapping | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(
            driver_or_queries, resources=resources, settings=settings, observers=observers
        )
        self.qm: QueueManager = QueueManager(self._core)
        self.sm: SchedulerManager = SchedulerManager(self._core)

    @classmethod
    def in_memory(
        cls,
        *,
        resources: ResourceMapping | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
    ) -> Self:
        """Make an application whose queue lives in this process and ends with it."""
        return cls(InMemoryDriver(), resources=resources, settings=settings, observers=observers)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        target: Target = None,
        *,
        resources: ResourcesSource = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
        min_size: int = 1,
        max_size: int = 8,
    ) -> AsyncGenerator[Self, None]:
        """Connect, enter the resources, and own every task of the application.

        Needs no tables; `install` may be called inside of the block.

        Args:
            target: a DSN or conninfo, "memory:", "embedded:" (a private PostgreSQL, gone at the
                end), "embedded:DIR" (kept in DIR), or a driver; None: PGQUEUER_DSN, PGDSN, then
                libpq's own variables.
            resources: a mapping, an async context manager that yields one, or a function that
                returns either; None: a fresh `Resources()`.
            settings: names of the database objects; None: from the environment.
            observers: told of what happens.
            min_size: connections that are opened at once and kept.
            max_size: connections at the most, the listener's own not counted.

        Raises:
            ResourceError: what was given as resources is none.
            StoreError: the server refuses the connection. A server that is down or starting is
                waited for, up to 300 s.
            Whatever entering or leaving a resource raises.

        Leaving the block normally asks a run that is going to stop and waits for it; leaving it
        by an exception or a cancellation cancels it at once. In each case jobs end first, then
        the resources close, last entered first, then the connections. An exception of the block
        comes out as itself.
        """
        error: Exception | None = None
        try:
            # The scope is here for what is being opened: a cancellation from outside ends it.
            async with deaf() as outside:
                with anyio.CancelScope() as opening:
                    outside.cancels(opening)
                    async with (
                        open_target(target, min_size=min_size, max_size=max_size) as driver,
                        opened_resources(resources) as container,
                    ):
                        outside.spares(opening)
                        app = cls(driver, settings=settings, observers=observers)
                        app._core.resources = container
                        try:
                            async with anyio.create_task_group() as root:
                                outside.cancels(root.cancel_scope)
                                app._core.root = root
                                try:
                                    yield app
                                except Exception as exc:  # noqa: BLE001 - raised below, as itself
                                    error = exc
                                    root.cancel_scope.cancel()
                                finally:
                                    app._core.closed = True
                                if app._core.is_running:
                                    app.request_shutdown()
                        except ExceptionGroup as group:
                            if error is None:
                                raise
                            error.add_note(f"Ending the run failed as well: {unwrapped(group)!r}")
                        if error is not None:
                            raise error  # through the resources, which may want to know
        except BaseExceptionGroup as group:
            raise_as_itself(group, own=error)

    async def run(  # noqa: ASYNC128 - the engine says when it has started
        self,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
        **options: Unpack[RunArguments],
    ) -> None:
        """Run jobs and schedules until told to stop, or until the queue is drained.

        Args:
            mode: "continuous", or "drain": end when no due job of a registered entrypoint is
                queued and none runs here; schedules do not fire then.
            batch_size: upper bound for one claim; None: the worker sizes claims itself.
            max_concurrent_jobs: how many jobs run at once; at most as many again are claimed
                ahead. `max_concurrent_tasks` is PgQueuer's name for it.
            dequeue_timeout: the longest time between two looks at the queue.
            heartbeat_timeout: when the lease of a silent worker expires; the same in a fleet.
            grace_period: how long running jobs may go on after a request to stop.
            handle_signals: SIGINT and SIGTERM request the shutdown, a second one cancels now.
                Outside of the main thread it warns and leaves signals alone.
            task_status: for `await tg.start(pgq.run)`: started once it claims.

        Durations are a `timedelta` or seconds.

        Raises:
            TypeError, ValueError: an argument that cannot work; nothing was started.
            RegistrationError: nothing is registered.
            SchemaMissing: the tables are not there; nothing was claimed.
            PgqError: it runs already, or the application is closed.
            ConnectionLost: outcomes could not be written at the end.

        Cancelled, it cancels all handlers at once, queues their jobs again and then ends.
        """
        await self._core.run(RunOptions.check(**options), task_status.started)

    async def start(self, **options: Unpack[RunArguments]) -> None:
        """Run in the background of `open` and return once it claims; for web lifespans.

        The arguments are those of `run`, but signals are left alone unless `handle_signals` is
        given. Leaving `open` drains it. An internal failure cancels the application and comes
        out of `open`.

        Raises:
            As `run`, and PgqError: this application was not made by `open`.
        """
        options.setdefault("handle_signals", False)
        await self._core.start(RunOptions.check(**options))
