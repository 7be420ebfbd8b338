"""The two packages behind one interface, so that a test reads the same in both directions."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, cast

import anyio
import pgqueuer
from pgqueuer.errors import (
    DuplicateJobError as TheirDuplicateJobError,
    RetryRequested as TheirRetryRequested,
)
from pgqueuer.models import (
    Context as TheirContext,
    Job as TheirJob,
    TracebackRecord as TheirTracebackRecord,
)
from pgqueuer.types import JobId as TheirJobId

from pgq_trio import Job, PgQueuer, Queries, RetryRequested
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.traceback import TracebackRecord
from pgq_trio.types import OnConflict, OnFailure
from tests.interop.peer import Peer
from tests.schema.pgqueuers import fetch
from tests.worker.tools import SOON, Notes, drain, running

T = TypeVar("T")

#: What a handler does: end well, wait to be released, raise, or ask for a retry in an hour.
Script: TypeAlias = Literal["return", "wait", "raise", "retry"]

Headers: TypeAlias = dict[str, object]

HOUR = timedelta(hours=1)

#: Instead of the id of a job that was not enqueued.
SKIPPED = -1


@dataclass(frozen=True, slots=True)
class Seen:
    """What a handler saw of its job."""

    id: int
    entrypoint: str
    payload: bytes | None
    headers: Headers | None
    priority: int
    attempts: int
    execute_after: datetime
    started: datetime

    @classmethod
    def of(cls, job: Job | TheirJob) -> Seen:
        """Both packages name a job's parts the same."""
        return cls(
            job.id,
            job.entrypoint,
            job.payload,
            job.headers,
            job.priority,
            job.attempts,
            job.execute_after,
            datetime.now(UTC),
        )


class Crowd:
    """How many handlers run at once, over workers of both kinds and in any thread."""

    def __init__(self) -> None:
        self.most = 0
        self._inside = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Count somebody in."""
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)

    def leave(self) -> None:
        """Count somebody out."""
        with self._lock:
            self._inside -= 1


@dataclass(slots=True)
class Book:
    """What the handlers of one worker do and did; it lives on that worker's event loop."""

    script: Script
    crowd: Crowd | None = None
    seen: Notes[Seen] = field(default_factory=Notes)
    cancelled: Notes[int] = field(default_factory=Notes)
    _released: anyio.Event = field(default_factory=anyio.Event)

    async def play(self, job: Job | TheirJob, retry: Exception) -> None:
        """Be the body of a handler."""
        if self.crowd is not None:
            self.crowd.enter()
        self.seen.add(Seen.of(job))
        try:
            if self.script == "wait":
                await self._released.wait()
            elif self.script == "raise":
                raise ValueError("no luck")
            elif self.script == "retry":
                raise retry
            elif self.crowd is not None:
                await anyio.sleep(0.02)  # the work: long enough for jobs to overlap
        except anyio.get_cancelled_exc_class():
            self.cancelled.add(job.id)
            raise
        finally:
            if self.crowd is not None:
                self.crowd.leave()

    def release(self) -> None:
        """Let those go on who wait, now and later."""
        self._released.set()


class AtWork:
    """A running worker of either kind, looked at from the test's event loop."""

    def __init__(
        self, book: Book, run: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
    ) -> None:
        self._book = book
        self._run = run

    async def jobs(self, count: int = 1) -> list[Seen]:
        """Wait until so many jobs have started here, and return all that have."""
        return list(await self._run(self._book.seen.until(count)))

    async def cancelled(self, count: int = 1) -> list[int]:
        """Wait until so many handlers were cancelled, and return the ids of their jobs."""
        return list(await self._run(self._book.cancelled.until(count)))

    async def release(self) -> None:
        """Let the handlers go on that wait."""

        async def release() -> None:
            self._book.release()

        await self._run(release())


class Side(ABC):
    """One of the two packages on the shared queue.

    Attributes:
        duplicate: what its `enqueue` raises when a dedupe key is taken.
    """

    name: ClassVar[str]
    duplicate: ClassVar[type[Exception]]

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @abstractmethod
    async def enqueue_all(
        self,
        payloads: Sequence[bytes | None],
        *,
        name: str = "a",
        priorities: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[int]:
        """Enqueue a batch."""

    @abstractmethod
    async def enqueue(
        self,
        payload: bytes | None = None,
        *,
        name: str = "a",
        priority: int = 0,
        after: timedelta | None = None,
        key: str | None = None,
        on_conflict: OnConflict = "raise",
    ) -> int:
        """Enqueue one job, `SKIPPED` if it is skipped."""

    @abstractmethod
    async def cancel(self, *ids: int) -> None:
        """Cancel jobs, queued or running."""

    @abstractmethod
    async def requeue(self, *ids: int) -> None:
        """Queue held jobs again."""

    @abstractmethod
    async def failed(self) -> list[int]:
        """The ids of the held jobs, the last created first."""

    @abstractmethod
    async def status(self, job_id: int) -> str:
        """The last known state of a job."""

    @abstractmethod
    async def failure(self, job_id: int) -> TracebackRecord | TheirTracebackRecord | None:
        """What the last row of a job's log says about its failure."""

    @abstractmethod
    def work(
        self,
        script: Script = "return",
        *,
        name: str = "a",
        limit: int = 0,
        on_failure: OnFailure = "delete",
        lease: float = 30.0,
        crowd: Crowd | None = None,
    ) -> AbstractAsyncContextManager[AtWork]:
        """Have a worker run during a block; it polls every `lease` seconds at least."""

    @abstractmethod
    async def drain(
        self, script: Script = "return", *, name: str = "a", on_failure: OnFailure = "delete"
    ) -> list[Seen]:
        """Run what is due and return what was run, in the order of the starts."""

    async def run_one(self, script: Script = "return", *, on_failure: OnFailure = "delete") -> Seen:
        """Have a worker of its own run one job that is there, and write how it ended."""
        async with self.work(script, on_failure=on_failure) as worker:
            [seen] = await worker.jobs(1)
        return seen

    def log(self, job_id: int) -> list[str]:
        """The states a job went through, by the log table."""
        rows = fetch(
            self.dsn,
            "SELECT status::text FROM pgqueuer_log WHERE job_id = %s ORDER BY id",
            job_id,
        )
        return [row[0] for row in rows]


class Ours(Side):
    """This package."""

    name = "pgq-trio"
    duplicate = DuplicateJobError

    def __init__(self, dsn: str, queries: Queries) -> None:
        super().__init__(dsn)
        self.queries = queries

    async def enqueue_all(
        self,
        payloads: Sequence[bytes | None],
        *,
        name: str = "a",
        priorities: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[int]:
        return await self.queries.enqueue(
            [name] * len(payloads), payloads, priorities or 0, headers=headers
        )

    async def enqueue(
        self,
        payload: bytes | None = None,
        *,
        name: str = "a",
        priority: int = 0,
        after: timedelta | None = None,
        key: str | None = None,
        on_conflict: OnConflict = "raise",
    ) -> int:
        [job_id] = await self.queries.enqueue(
            name, payload, priority, after, key, on_conflict=on_conflict
        )
        return SKIPPED if job_id is None else job_id

    async def cancel(self, *ids: int) -> None:
        await self.queries.mark_job_as_cancelled(ids)

    async def requeue(self, *ids: int) -> None:
        await self.queries.requeue_jobs(ids)

    async def failed(self) -> list[int]:
        return [job.id for job in await self.queries.list_failed_jobs()]

    async def status(self, job_id: int) -> str:
        [(_, status)] = await self.queries.job_status([job_id])
        return status

    async def failure(self, job_id: int) -> TracebackRecord | None:
        return (await self.queries.queue_log(job_id=job_id))[-1].traceback

    @asynccontextmanager
    async def work(
        self,
        script: Script = "return",
        *,
        name: str = "a",
        limit: int = 0,
        on_failure: OnFailure = "delete",
        lease: float = 30.0,
        crowd: Crowd | None = None,
    ) -> AsyncGenerator[AtWork]:
        book = Book(script, crowd)
        async with PgQueuer.open(self.dsn) as pgq:
            _register_ours(pgq, book, name, limit, on_failure)
            async with running(pgq, heartbeat_timeout=lease):
                yield AtWork(book, _here)
                book.release()

    async def drain(
        self, script: Script = "return", *, name: str = "a", on_failure: OnFailure = "delete"
    ) -> list[Seen]:
        book = Book(script)
        async with PgQueuer.open(self.dsn) as pgq:
            _register_ours(pgq, book, name, 0, on_failure)
            await drain(pgq)
        return book.seen.entries


async def _here(coroutine: Coroutine[Any, Any, T]) -> T:
    return await coroutine


def _register_ours(pgq: PgQueuer, book: Book, name: str, limit: int, on_failure: OnFailure) -> None:
    @pgq.entrypoint(name, concurrency_limit=limit, on_failure=on_failure)
    async def handler(job: Job) -> None:
        await book.play(job, RetryRequested(delay=HOUR, reason="come back later"))


class Theirs(Side):
    """PgQueuer."""

    name = "PgQueuer"
    duplicate = TheirDuplicateJobError

    def __init__(self, dsn: str, peer: Peer) -> None:
        super().__init__(dsn)
        self.peer = peer

    async def enqueue_all(
        self,
        payloads: Sequence[bytes | None],
        *,
        name: str = "a",
        priorities: Sequence[int] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[int]:
        ids = await self.peer.run(
            self.peer.queries.enqueue(
                [name] * len(payloads),
                list(payloads),
                list(priorities or [0] * len(payloads)),
                headers=cast("list[dict[str, str] | None] | None", headers and list(headers)),
            )
        )
        return list(ids)

    async def enqueue(
        self,
        payload: bytes | None = None,
        *,
        name: str = "a",
        priority: int = 0,
        after: timedelta | None = None,
        key: str | None = None,
        on_conflict: OnConflict = "raise",
    ) -> int:
        enqueue = cast(
            "Callable[..., Coroutine[Any, Any, list[int | None]]]", self.peer.queries.enqueue
        )
        [job_id] = await self.peer.run(
            enqueue(name, payload, priority, after, key, on_conflict=on_conflict)
        )
        return SKIPPED if job_id is None else job_id

    async def cancel(self, *ids: int) -> None:
        await self.peer.run(self.peer.queries.mark_job_as_cancelled(_their_ids(ids)))

    async def requeue(self, *ids: int) -> None:
        await self.peer.run(self.peer.queries.requeue_jobs(_their_ids(ids)))

    async def failed(self) -> list[int]:
        return [job.id for job in await self.peer.run(self.peer.queries.list_failed_jobs())]

    async def status(self, job_id: int) -> str:
        [(_, status)] = await self.peer.run(self.peer.queries.job_status(_their_ids([job_id])))
        return status

    async def failure(self, job_id: int) -> TheirTracebackRecord | None:
        log = await self.peer.run(self.peer.queries.queue_log())
        return [row for row in log if row.job_id == job_id][-1].traceback

    @asynccontextmanager
    async def work(
        self,
        script: Script = "return",
        *,
        name: str = "a",
        limit: int = 0,
        on_failure: OnFailure = "delete",
        lease: float = 30.0,
        crowd: Crowd | None = None,
    ) -> AsyncGenerator[AtWork]:
        book = await self.peer.make(lambda: Book(script, crowd))
        async with self.peer.working(
            lambda pgq: _register_theirs(pgq, book, name, limit, on_failure),
            at_end=book.release,
            dequeue_timeout=timedelta(seconds=lease),
            heartbeat_timeout=timedelta(seconds=lease),
        ):
            yield AtWork(book, self.peer.run)

    async def drain(
        self, script: Script = "return", *, name: str = "a", on_failure: OnFailure = "delete"
    ) -> list[Seen]:
        book = await self.peer.make(lambda: Book(script))
        # So long its drain mode waits for a notification before it looks whether it is done.
        await self.drain_with(book, timedelta(seconds=0.1), name=name, on_failure=on_failure)
        return book.seen.entries

    async def drain_with(
        self,
        book: Book,
        dequeue_timeout: timedelta,
        *,
        name: str = "a",
        on_failure: OnFailure = "delete",
    ) -> None:
        """As `drain`, with a book that was made on the peer's loop."""
        await self.peer.drain(
            lambda pgq: _register_theirs(pgq, book, name, 0, on_failure),
            dequeue_timeout=dequeue_timeout,
        )


def _their_ids(ids: Sequence[int]) -> list[TheirJobId]:
    return [TheirJobId(job_id) for job_id in ids]


def _register_theirs(
    pgq: pgqueuer.PgQueuer, book: Book, name: str, limit: int, on_failure: OnFailure
) -> None:
    @pgq.entrypoint(name, concurrency_limit=limit, on_failure=on_failure, accepts_context=True)
    async def handler(job: TheirJob, context: TheirContext) -> None:
        with context.cancellation:
            await book.play(job, TheirRetryRequested(delay=HOUR, reason="come back later"))


@dataclass(frozen=True, slots=True)
class Pair:
    """Both packages on one queue; `one` acts first and `other` answers, in either direction."""

    ours: Ours
    theirs: Theirs
    one: Side
    other: Side

    @property
    def dsn(self) -> str:
        """The conninfo string of the shared database."""
        return self.ours.dsn

    def fetch(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one query aside."""
        return fetch(self.dsn, query, *params)

    async def quiet(self) -> None:
        """Wait until no session has had anything to do for longer than PgQueuer's shortest poll.

        Before this, a worker that is seen idle may be about to look at the queue.
        """
        with anyio.fail_after(SOON):
            while self.fetch(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                " AND (state <> 'idle' OR state_change > now() - interval '0.15 seconds')"
            ):
                await anyio.sleep(0.01)

    def empty(self) -> bool:
        """Whether the queue table has no row."""
        return self.fetch("SELECT id FROM pgqueuer LIMIT 1") == []
