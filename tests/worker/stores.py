"""A driver around a real one: it counts, and calls back before and after each statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TypeVar

import anyio

from pgq_trio.abc import (
    Backend,
    Claimed,
    ClaimRequest,
    Driver,
    JobStore,
    Notifier,
)
from pgq_trio.model.enqueue import NewJob
from pgq_trio.model.outcomes import Claim, Finished
from pgq_trio.model.wire import Channel
from pgq_trio.models import Job, Log, QueueStatistics
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.types import JobId, JobStatus, OnConflict, QueueManagerId, SortOrder

T = TypeVar("T")

#: Called with the name of the operation and what it was given, or what it returned.
Hook = Callable[[str, object], Awaitable[None]]


async def _nothing(name: str, value: object) -> None:
    """The hook that does nothing."""


class WatchedJobs(JobStore):
    """Passes everything on to a real store.

    Attributes:
        calls: how often each operation was called.
        before: called before an operation with what it was given.
        after: called after an operation, before the worker sees what it returned.
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.before: Hook = _nothing
        self.after: Hook = _nothing

    async def _do(self, name: str, given: object, operation: Callable[[], Awaitable[T]]) -> T:
        self.calls[name] += 1
        await self.before(name, given)
        result = await operation()
        await self.after(name, result)
        return result

    async def enqueue(
        self, jobs: Sequence[NewJob], *, on_conflict: OnConflict
    ) -> list[JobId | None]:
        return await self._do(
            "enqueue", jobs, lambda: self.store.enqueue(jobs, on_conflict=on_conflict)
        )

    async def claim(self, request: ClaimRequest) -> Claimed:
        return await self._do("claim", request, lambda: self.store.claim(request))

    async def finish(
        self, queue_manager_id: QueueManagerId, finished: Sequence[Finished]
    ) -> set[JobId]:
        return await self._do(
            "finish", finished, lambda: self.store.finish(queue_manager_id, finished)
        )

    async def release(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        return await self._do(
            "release", claims, lambda: self.store.release(queue_manager_id, claims)
        )

    async def heartbeat(
        self, queue_manager_id: QueueManagerId, claims: Sequence[Claim]
    ) -> set[JobId]:
        return await self._do(
            "heartbeat", claims, lambda: self.store.heartbeat(queue_manager_id, claims)
        )

    async def cancel(self, ids: Collection[JobId]) -> set[JobId]:
        return await self._do("cancel", ids, lambda: self.store.cancel(ids))

    async def requeue(self, ids: Collection[JobId]) -> set[JobId]:
        return await self._do("requeue", ids, lambda: self.store.requeue(ids))

    async def clear(self, entrypoints: Collection[str] | None) -> int:
        return await self.store.clear(entrypoints)

    async def clear_log(self, entrypoints: Collection[str] | None) -> int:
        return await self.store.clear_log(entrypoints)

    async def queue_size(self) -> list[QueueStatistics]:
        return await self.store.queue_size()

    async def log(self, *, job_id: JobId | None = None, limit: int | None = None) -> list[Log]:
        return await self.store.log(job_id=job_id, limit=limit)

    async def job_status(self, ids: Collection[JobId]) -> dict[JobId, JobStatus]:
        return await self.store.job_status(ids)

    async def failed_jobs(self, *, limit: int, order: SortOrder = "DESC") -> list[Job]:
        return await self.store.failed_jobs(limit=limit, order=order)


async def slowly(name: str, value: object) -> None:
    """A hook for memory stores: like a server, they take some steps to hear and to answer."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


class WatchedNotifier(Notifier):
    """Counts how often somebody listens and notifies."""

    def __init__(self, notifier: Notifier, calls: Counter[str]) -> None:
        self._notifier = notifier
        self._calls = calls

    def listen(self, *channels: Channel) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        self._calls["listen"] += 1
        return self._notifier.listen(*channels)

    async def notify(self, channel: Channel, payloads: Sequence[str]) -> None:
        self._calls["notify"] += 1
        await self._notifier.notify(channel, payloads)


class WatchedDriver(Driver):
    """A real driver whose job store is watched; `jobs` and `real` are there after `backend`."""

    def __init__(self, driver: Driver, settings: Settings | None = None) -> None:
        self.real: Backend = driver.backend(settings or Settings())
        self.jobs = WatchedJobs(self.real.jobs)
        notifier = WatchedNotifier(self.real.notifier, self.jobs.calls)
        self._backend = StoreBackend(
            settings=self.real.settings,
            jobs=self.jobs,
            schedules=self.real.schedules,
            insights=self.real.insights,
            schema=self.real.schema,
            notifier=notifier,
        )

    def backend(self, settings: Settings) -> Backend:
        return replace(self._backend, settings=settings)
