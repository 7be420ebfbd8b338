"""What `PgQueuer` and its managers share: one state, and one run at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from pgq_trio.abc import Driver, Observer
from pgq_trio.client.queries import Queries
from pgq_trio.concurrency.elsewhere import open_own_group, run_in
from pgq_trio.concurrency.shutdown import Shutdown
from pgq_trio.engine import Engine
from pgq_trio.errors import PgqError, RegistrationError, UnknownJob
from pgq_trio.models import Context, Health, ResourceMapping
from pgq_trio.scheduler.registry import ScheduleRegistry
from pgq_trio.settings import Settings
from pgq_trio.telemetry.observers import fan_out
from pgq_trio.types import JobId
from pgq_trio.worker.options import RunOptions
from pgq_trio.worker.registry import EntrypointRegistry


class Core:
    """One application: its queries, resources and registries, and the run that is going."""

    def __init__(
        self,
        driver_or_queries: Driver | Queries,
        *,
        resources: ResourceMapping,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.queries: Queries = _queries(driver_or_queries, settings)
        self.resources = resources
        self.entrypoints: EntrypointRegistry = EntrypointRegistry()
        self.schedules: ScheduleRegistry = ScheduleRegistry()
        self.root: TaskGroup | None = None
        self.closed: bool = False
        self._emit = fan_out(observers)
        self._engine: Engine | None = None
        self._shutdown = Shutdown()

    async def run(
        self,
        options: RunOptions,
        started: Callable[[], None],
        *,
        entrypoints: bool = True,
        schedules: bool = True,
    ) -> None:
        """Run what is registered, in the root nursery when `open` owns one.

        Raises:
            PgqError: a run is going already, or the application is closed.
        """
        engine = self._begin(entrypoints=entrypoints, schedules=schedules)
        try:
            async with AsyncExitStack() as stack:
                root = self.root
                if root is None:
                    root = await stack.enter_async_context(open_own_group())
                # In a task of its own: asyncio's `Task.cancel` pierces the shields of the task
                # that it is called on, and the caller may be wrapped in anything.
                if not await run_in(
                    root, lambda ready: engine.run(options, ready), name="run", started=started
                ):
                    await anyio.lowlevel.checkpoint_if_cancelled()
                    raise PgqError("the application was closed while run() was going")
        finally:
            self._end()

    async def start(self, options: RunOptions) -> None:
        """Start a run in the root nursery and return once it claims.

        Raises:
            PgqError: there is no root nursery: the application was not made by `open`.
        """
        if self.root is None:
            raise PgqError(
                "start() needs the nursery that `async with PgQueuer.open(...)` opens; "
                "elsewhere use `await tg.start(pgq.run)` in a task group of your own"
            )
        engine = self._begin()

        async def background(  # noqa: ASYNC128 - the engine says when
            *, task_status: TaskStatus[None]
        ) -> None:
            try:
                await engine.run(options, task_status.started)
            finally:
                self._end()

        try:
            await self.root.start(background, name="run")
        except BaseException:
            self._end()
            raise

    def request_shutdown(self, grace_period: float | None = None) -> None:
        """Ask the run that is going, or the next one, to stop."""
        self._shutdown.request(grace_period)

    def context_of(self, job_id: JobId) -> Context:
        """Return the context of a job that runs here now, else raise `UnknownJob`."""
        engine = self._engine
        if engine is None:
            raise UnknownJob(job_id)
        return engine.context_of(job_id)

    def health(self) -> Health:
        """Say whether the run that is going can do its work."""
        return Health(status="stopped") if self._engine is None else self._engine.health()

    @property
    def is_running(self) -> bool:
        """Whether a run is going."""
        return self._engine is not None

    def check_registration(self) -> None:
        """Refuse to register while a run is going, which would not serve it.

        Raises:
            RegistrationError: a run is going.
        """
        if self.is_running:
            raise RegistrationError(
                "register before run(): the run that is going serves what was registered when it "
                "began"
            )

    def _begin(self, *, entrypoints: bool = True, schedules: bool = True) -> Engine:
        if self.closed:
            raise PgqError("the application is closed: run() belongs inside of `async with open`")
        if self._engine is not None:
            raise PgqError("this application runs already; one run() at a time")
        self._engine = Engine(
            backend=self.queries.backend,
            entrypoints=dict(self.entrypoints.executors) if entrypoints else {},
            schedules=list(self.schedules) if schedules else [],
            resources=self.resources,
            emit=self._emit,
            shutdown=self._shutdown,
        )
        return self._engine

    def _end(self) -> None:
        self._engine = None
        self._shutdown = Shutdown()


def _queries(driver_or_queries: object, settings: Settings | None) -> Queries:
    if isinstance(driver_or_queries, Queries):
        return driver_or_queries
    if isinstance(driver_or_queries, Driver):
        return Queries(driver_or_queries, settings=settings)
    raise TypeError(
        "a driver of pgq_trio.db or a Queries is needed here, got "
        f"{type(driver_or_queries).__name__}; a DSN goes to `PgQueuer.open(dsn)`"
    )
