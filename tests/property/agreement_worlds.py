"""A store in memory and one on PostgreSQL that live on one clock, which only the test moves.

The statements of the stores say `now()`. A schema in front of `pg_catalog` has another function of
that name, which says what the session was told last. So both stores can be compared to the
microsecond, and what is due, or stale, exactly now is tried as well.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias, cast

import psycopg
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.streams.memory import MemoryObjectReceiveStream
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from pgq_trio.abc import Backend
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.model.wire import CancellationRequested, Event, parse_event
from pgq_trio.models import Job, Log
from pgq_trio.postgres import Connection, connect
from pgq_trio.settings import Settings
from pgq_trio.store.memory_clock import Ticker
from pgq_trio.store.memory_jobs import MemoryJobs
from pgq_trio.types import History, JobId
from tests.servers import PostgresServer

#: What to do, and with what: ("claim", ...) is `play_claim(...)`.
Command: TypeAlias = tuple[Any, ...]

START = datetime(2030, 1, 1, tzinfo=UTC)

#: How much later than the one before each command comes. The figures that are drawn are whole
#: seconds too, so that what ends just now is no rare case.
TICK = 1.0

#: Age in seconds at which a lease has expired: a few commands.
LEASE = 4.0

#: Puts the clock of the test in the place of the server's, defaults of columns included.
CLOCK_SQL = [
    "CREATE SCHEMA clock",
    """CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT current_setting('clock.now')::timestamptz $$""",
    """DO $$ DECLARE c record; BEGIN
    FOR c IN SELECT a.attrelid::regclass AS name, a.attname,
            replace(pg_get_expr(d.adbin, d.adrelid), 'now()', 'clock.now()') AS value
        FROM pg_attrdef d
        JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE pg_get_expr(d.adbin, d.adrelid) LIKE '%now()%'
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT %s', c.name, c.attname, c.value);
    END LOOP;
END $$""",
]

#: Leaves the tables empty.
EMPTY = (
    b"WITH a AS (DELETE FROM pgqueuer), b AS (DELETE FROM pgqueuer_log),"
    b" c AS (DELETE FROM pgqueuer_statistics) DELETE FROM pgqueuer_schedules"
)


def programs(
    always: Sequence[st.SearchStrategy[Command]],
    sometimes: Sequence[st.SearchStrategy[Command]],
    stories: st.SearchStrategy[Sequence[Command]],
) -> st.SearchStrategy[list[Command]]:
    """Draw commands, each program from a few kinds only of those that are there sometimes.

    From all kinds at once, what leads to something in three commands is hardly ever drawn. The
    stories are such commands, one after another.
    """
    chosen = st.sets(st.sampled_from(range(len(sometimes))), min_size=3, max_size=6)
    return chosen.flatmap(
        lambda kinds: st.lists(
            st.one_of(*always, *(sometimes[kind] for kind in sorted(kinds))).map(_alone) | stories,
            min_size=5,
            max_size=15,
        ).map(lambda drawn: [command for story in drawn for command in story])
    )


def _alone(command: Command) -> Sequence[Command]:
    return [command]


def with_clock(dsn: str) -> str:
    """Return how to connect to a database with `CLOCK_SQL`."""
    options = f"-c search_path=clock,pg_catalog,public -c clock.now={START.isoformat()}"
    return make_conninfo(dsn, options=options)


@contextmanager
def clock_database(server: PostgresServer, install_sql: Sequence[str]) -> Iterator[str]:
    """A database of its own, with the queue and the clock; gives how to connect."""
    with server.fresh_database([*install_sql, *CLOCK_SQL]) as dsn:
        yield with_clock(dsn)


async def set_time(connection: Connection[Any], time: datetime) -> None:
    """Set the time that statements of a session see."""
    await connection.execute(
        b"SELECT set_config('clock.now', %s, false)", [time.isoformat()], prepare=True
    )


class ManualClock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time


class Side(Protocol):
    """A store, its clock and its notifications."""

    backend: Backend

    async def set_time(self, time: datetime) -> None:
        """Let it be that late."""
        ...

    def heard(self) -> list[str]:
        """Return the notifications since it was asked last."""
        ...


class MemorySide:
    """A new queue in memory."""

    def __init__(self, settings: Settings) -> None:
        self.clock = ManualClock()
        self.backend: Backend = InMemoryDriver(self.clock).backend(settings)
        assert isinstance(self.backend.jobs, MemoryJobs)
        # Its own clock ticks with every look; on this one each command has its time.
        self.backend.jobs._state.now = cast("Ticker", self.clock)
        self._payloads: MemoryObjectReceiveStream[str] | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """A block in which notifications are heard."""
        async with self.backend.notifier.listen() as payloads:
            assert isinstance(payloads, MemoryObjectReceiveStream)
            self._payloads = payloads
            yield

    async def set_time(self, time: datetime) -> None:
        """Let it be that late."""
        self.clock.time = time

    def heard(self) -> list[str]:
        """Return the notifications since it was asked last."""
        assert self._payloads is not None
        waiting = self._payloads.statistics().current_buffer_used
        return [self._payloads.receive_nowait() for _ in range(waiting)]


class PostgresSide:
    """A queue on PostgreSQL, on a connection that hears what its own statements notify."""

    def __init__(self, connection: Connection[Any], settings: Settings) -> None:
        self.connection = connection
        self.backend: Backend = PsycopgDriver(connection).backend(settings)
        self._payloads: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """A block in which notifications are heard."""
        self.connection.add_notify_handler(self._hear)
        try:
            yield
        finally:
            self.connection.remove_notify_handler(self._hear)

    def _hear(self, notification: psycopg.Notify) -> None:
        self._payloads.append(notification.payload)

    async def set_time(self, time: datetime) -> None:
        """Let it be that late."""
        await set_time(self.connection, time)

    def heard(self) -> list[str]:
        """Return the notifications since it was asked last."""
        heard, self._payloads = self._payloads, []
        return heard


@dataclass
class Player:
    """Plays commands on one store and tells what came of them.

    Jobs are called by the order of their making, since ids differ where a sequence has gaps.
    """

    side: Side
    ids: list[JobId] = field(default_factory=list[JobId])

    @property
    def backend(self) -> Backend:
        """The store."""
        return self.side.backend

    async def play(self, command: Command, time: datetime) -> object:
        """Do one thing; return the reply, and everything that can be seen afterwards."""
        await self.side.set_time(time)
        kind, *arguments = command
        reply = await getattr(self, f"play_{kind}")(*arguments)
        seen = await self.look()
        # The replies to `look` have brought the notifications with them.
        return {"reply": reply, "heard": self._events(self.side.heard()), **seen}

    async def look(self) -> dict[str, object]:
        """Read the tables."""
        raise NotImplementedError

    def name(self, job_id: JobId) -> int:
        """Return what a job is called."""
        return self.ids.index(job_id)

    def names(self, ids: Iterable[JobId]) -> list[int]:
        """Return what jobs are called, in order."""
        return sorted(map(self.name, ids))

    def plain(self, job: Job) -> Job:
        """Return a job as both stores have it."""
        return replace(job, id=self.name(job.id))

    def plain_log(self, entries: Iterable[Log]) -> list[Log]:
        """Return log rows as both stores have them, those of one moment in a certain order."""
        named = [replace(entry, job_id=self.name(entry.job_id)) for entry in entries]
        return sorted(named, key=lambda x: (x.created, x.job_id, x.status))

    def _events(self, payloads: Sequence[str]) -> list[str]:
        events: list[Event] = [parse_event(payload) for payload in payloads]
        return sorted(
            f"cancelled {self.names(event.ids)}"
            if isinstance(event, CancellationRequested)
            else f"{event} of {getattr(event, 'table', None)}"
            for event in events
        )


@dataclass(eq=False)
class Arena:
    """A session on PostgreSQL, in an event loop of its own thread that outlives an example.

    A fresh session would plan each statement anew, which takes longer than an example.
    """

    portal: BlockingPortal
    connection: Connection[Any]

    def compare(
        self,
        make_player: Callable[[Side], Player],
        commands: Sequence[Command],
        *,
        history: History = "full",
    ) -> None:
        """Play the commands on both stores; raise AssertionError where they differ."""
        self.portal.call(self._compare, make_player, commands, Settings(history=history))

    async def _compare(
        self,
        make_player: Callable[[Side], Player],
        commands: Sequence[Command],
        settings: Settings,
    ) -> None:
        await self.connection.execute(EMPTY, prepare=True)
        in_memory = MemorySide(settings)
        on_postgres = PostgresSide(self.connection, settings)
        async with in_memory.listening(), on_postgres.listening():
            memory, postgres = make_player(in_memory), make_player(on_postgres)
            time = START
            for step, command in enumerate(commands):
                time += timedelta(seconds=command[1] if command[0] == "wait" else TICK)
                got = await postgres.play(command, time)
                expected = await memory.play(command, time)
                assert got == expected, f"PostgreSQL and memory differ at step {step}: {command}"

    def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        """Run something in the event loop."""
        return self.portal.call(function, *args)


@contextmanager
def open_arena(dsn: str, backend: str) -> Iterator[Arena]:
    """Open a session on a database made by `clock_database`, on one of the event loops."""
    with (
        start_blocking_portal(backend=backend) as portal,
        portal.wrap_async_context_manager(_connected(dsn)) as connection,
    ):
        yield Arena(portal, connection)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncGenerator[Connection[Any]]:
    async with await connect(dsn, autocommit=True) as connection:
        await connection.execute(f"LISTEN {Settings().channel}".encode())
        yield connection
