"""Resources whose life can be watched, and how their users look at them."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    MutableMapping,
)
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, TaskStatus

from pgq_trio import PgQueuer, Queries, SchedulerManager
from pgq_trio.abc import NewSchedule

#: A cron expression that does not fire while a test runs.
RARE = "0 0 29 2 *"


class Boom(Exception):
    """What goes wrong in these tests."""


class Registry:
    """A user's own registry: mapping semantics, but neither a dict nor registered as a Mapping."""

    def __init__(self, **values: object) -> None:
        self.values = values

    def __getitem__(self, key: str) -> object:
        return self.values[key]

    def __setitem__(self, key: str, value: object) -> None:
        self.values[key] = value

    def __delitem__(self, key: str) -> None:
        del self.values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        """Lie: whoever writes `resources or {}` loses the user's container."""
        return False

    def __eq__(self, other: object) -> bool:
        """Lie: only `is` tells two registries apart."""
        return True

    __hash__ = object.__hash__


def number(resources: Mapping[str, object], key: str) -> int:
    """The number that stands there."""
    value = resources[key]
    assert isinstance(value, int)
    return value


def add_one(resources: MutableMapping[str, object], key: str = "count") -> None:
    """Read, modify and write without a checkpoint in between."""
    resources[key] = number(resources, key) + 1


class Story:
    """What happened, in order, and in which task."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tasks: list[int] = []

    def add(self, line: str) -> None:
        """Note something."""
        self.lines.append(line)
        self.tasks.append(anyio.get_current_task().id)

    @asynccontextmanager
    async def member(
        self,
        name: str,
        *,
        entering: Callable[[], Awaitable[None]] | None = None,
        closing: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[str, None]:
        """One resource: it notes that it is entered and closed, and does what it is told to."""
        self.add(f"enter {name}")
        await anyio.lowlevel.checkpoint()
        if entering is not None:
            await entering()
        try:
            yield name
        finally:
            # No shield of its own: whoever closes a resource has to give it one.
            await anyio.lowlevel.checkpoint()  # noqa: ASYNC102
            self.add(f"close {name}")
            if closing is not None:
                await closing()  # noqa: ASYNC102

    @asynccontextmanager
    async def container(self) -> AsyncGenerator[dict[str, object], None]:
        """A container with nothing but this story in it."""
        async with self.member("it"):
            yield {"story": self}


async def fail(error: Exception) -> None:
    """Raise after a moment."""
    await anyio.lowlevel.checkpoint()
    raise error


class Server:
    """A resource that answers from a background task of its own, as a pool or a client does."""

    def __init__(self) -> None:
        self._requests: ObjectSendStream[tuple[int, ObjectSendStream[int]]]
        self._inbox: ObjectReceiveStream[tuple[int, ObjectSendStream[int]]]
        self._requests, self._inbox = anyio.create_memory_object_stream[
            tuple[int, ObjectSendStream[int]]
        ]()
        self.answered = 0

    async def ask(self, number: int) -> int:
        """Have the background task double a number."""
        send, receive = anyio.create_memory_object_stream[int]()
        async with send, receive:
            await self._requests.send((number, send))
            return await receive.receive()

    async def ask_in_cleanup(self, number: int) -> int:
        """The same, where the caller has been cancelled already."""
        with anyio.move_on_after(5, shield=True):
            return await self.ask(number)
        return -1

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Answer until cancelled."""
        async with self._inbox, self._requests:
            task_status.started()
            async for number, reply in self._inbox:
                async with reply:
                    await reply.send(number * 2)
                self.answered += 1

    @classmethod
    @asynccontextmanager
    async def open(cls, story: Story | None = None) -> AsyncGenerator[Server, None]:
        """Serve in the background of a block."""
        server = cls()
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.serve, name="the server of a resource")
            try:
                yield server
            finally:
                tasks.cancel_scope.cancel()
                if story is not None:
                    story.add("close server")


@asynccontextmanager
async def with_server(story: Story | None = None) -> AsyncGenerator[dict[str, object], None]:
    """A container with a server in it."""
    async with Server.open(story) as server:
        yield {"server": server}


def leaves(exc: BaseException) -> list[BaseException]:
    """The exceptions in a group of groups; the exception itself if it is none."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in leaves(inner)]
    return [exc]


def all_errors(exc: BaseException | None) -> list[BaseException]:
    """Every exception that a traceback of this one shows, causes and contexts included."""
    found: list[BaseException] = []
    waiting = [exc]
    while waiting:
        one = waiting.pop()
        if one is None or any(one is other for other in found):
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return found


async def make_due(app: PgQueuer | SchedulerManager | Queries, *names: str) -> None:
    """Have these schedules, registered as `RARE`, fire once as soon as a scheduler runs.

    It is as if a scheduler had known them and been down at their last fire time.
    """
    queries = app if isinstance(app, Queries) else app.queries
    missed = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    await queries.backend.schedules.add([NewSchedule(name, RARE, missed) for name in names])


async def traceback_of(queries: Queries, job_id: int) -> str:
    """What the log keeps of the exception of a job, as text."""
    (text,) = [
        str(entry.traceback)
        for entry in await queries.queue_log(job_id=job_id)
        if entry.traceback is not None
    ]
    return text


class Barrier:
    """Holds tasks until so many have arrived; again and again."""

    def __init__(self, parties: int) -> None:
        self._parties = parties
        self._waiting = 0
        self._gone = anyio.Event()

    async def wait(self) -> None:
        """Arrive and wait for the others."""
        self._waiting += 1
        gone = self._gone
        if self._waiting == self._parties:
            self._waiting, self._gone = 0, anyio.Event()
            gone.set()
        await gone.wait()
