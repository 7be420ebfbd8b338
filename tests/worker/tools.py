"""What tests of a running worker share: a place for the queue, workers on it, looking at jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, Unpack
from uuid import UUID, uuid4

import anyio

from pgq_trio import PgQueuer
from pgq_trio.abc import ClaimRequest, Driver, JobStore, Observer
from pgq_trio.client.queries import Queries
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.model.events import Event
from pgq_trio.models import Job
from pgq_trio.postgres import open_pool
from pgq_trio.resources import ResourcesSource
from pgq_trio.testing import Call
from pgq_trio.types import JobId, JobStatus
from pgq_trio.worker.options import RunArguments

#: Seconds after which something that should happen at once has not happened.
SOON = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """One queue; each application that is opened on it is another worker."""

    target: str | Driver

    @property
    def is_memory(self) -> bool:
        """Whether there is no database."""
        return isinstance(self.target, InMemoryDriver)

    def open(
        self, *, resources: ResourcesSource = None, observers: Sequence[Observer] = ()
    ) -> AbstractAsyncContextManager[PgQueuer]:
        """Open an application on this queue."""
        return PgQueuer.open(self.target, resources=resources, observers=observers)

    @asynccontextmanager
    async def driver(self, *, max_size: int = 8) -> AsyncGenerator[Driver, None]:
        """A driver for tests that put something around it."""
        if not isinstance(self.target, str):
            yield self.target
            return
        async with open_pool(self.target, max_size=max_size, autocommit=True) as pool:
            yield PsycopgDriver(pool)


@asynccontextmanager
async def running(pgq: PgQueuer, **options: Unpack[RunArguments]) -> AsyncGenerator[None, None]:
    """Have a worker run during a block, then ask it to stop and wait for it."""
    options.setdefault("handle_signals", False)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(SOON):
            await tasks.start(partial(pgq.run, **options))
        yield
        pgq.request_shutdown()


async def drain(pgq: PgQueuer, **options: Unpack[RunArguments]) -> None:
    """Run what is due, then return."""
    options.setdefault("handle_signals", False)
    with anyio.fail_after(SOON):
        options["mode"] = "drain"
        await pgq.run(**options)


class Notes(Generic[T]):
    """What handlers and observers saw, and a way to wait for it without sleeping."""

    def __init__(self) -> None:
        self.entries: list[T] = []
        self._changed = anyio.Event()

    def add(self, entry: T) -> None:
        """Note something; on the event loop's thread."""
        self.entries.append(entry)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until(self, count: int) -> list[T]:
        """Wait until there are so many entries."""
        await self.until_all(lambda: len(self.entries) >= count)
        return self.entries

    async def until_all(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on the entries."""
        with anyio.fail_after(SOON):
            while not condition():
                await self._changed.wait()


class Watcher(Notes[Event], Observer):
    """An observer that notes every event."""

    def on_event(self, event: Event) -> None:
        self.add(event)

    def of(self, *kinds: type[T]) -> list[T]:
        """The events of some kinds."""
        return [event for event in self.entries if isinstance(event, kinds)]


class Gate:
    """Counts who is inside, and holds everybody until it is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entered: Notes[int] = Notes()
        self.left: Notes[int] = Notes()
        self._open = anyio.Event()

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._open.set()

    async def pass_through(self, job_id: int = 0) -> None:
        """Enter, wait until it is open, leave."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.add(job_id)
        try:
            await self._open.wait()
            await anyio.lowlevel.checkpoint()
        finally:
            self.inside -= 1
            self.left.add(job_id)


async def slowly(call: Call) -> None:
    """A hook for stores in memory: like a server, they take some steps to hear and to answer."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = SOON) -> None:
    """Ask the database until a condition holds; for what sends no event."""
    with anyio.fail_after(within):
        while not await condition():
            await anyio.sleep(0.01)


async def statuses(queries: Queries, job_id: JobId) -> list[JobStatus]:
    """What the log says about a job, oldest first."""
    return [entry.status for entry in await queries.queue_log(job_id=job_id)]


async def outcome(queries: Queries, job_id: JobId) -> JobStatus:
    """The last known state of a job."""
    ((_, status),) = await queries.job_status([job_id])
    return status


async def in_table(queries: Queries) -> dict[JobStatus, int]:
    """How many rows there are in each state."""
    counted: dict[JobStatus, int] = {}
    for entry in await queries.queue_size():
        counted[entry.status] = counted.get(entry.status, 0) + entry.count
    return counted


async def claim(
    store: JobStore,
    names: Iterable[str],
    *,
    queue_manager_id: UUID | None = None,
    heartbeat_timeout: float = 1e6,
    batch_size: int = 1000,
) -> list[Job]:
    """Take what is due as another worker would, dead ones' jobs only past the timeout."""
    claimed = await store.claim(
        ClaimRequest(
            queue_manager_id=queue_manager_id or uuid4(),
            limits=dict.fromkeys(names, 0),
            batch_size=batch_size,
            limited_batch_size=batch_size,
            heartbeat_timeout=heartbeat_timeout,
        )
    )
    return claimed.jobs


async def queued_again(queries: Queries, name: str, ids: Iterable[int], *others: str) -> None:
    """Check that just these jobs are queued, due now, owned by nobody, no attempt spent."""
    assert (await in_table(queries)).keys() <= {"queued", "failed"}
    jobs = await claim(queries.backend.jobs, [name, *others])
    assert {job.id: job.attempts for job in jobs} == dict.fromkeys(ids, 0)
