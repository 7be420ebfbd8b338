"""Three sessions at the same rows on PostgreSQL, and what would have come of it one by one.

The first session holds its transaction open while two others send what workers and clients send,
each a transaction of its own; who is not kept waiting by a lock is done before the next one
begins. What came of it has to be what the store in memory does with the same operations one after
another, in some order. For that each job has an entrypoint of its own; where all have one with a
fleet-wide limit, the limit has to hold.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import permutations
from typing import Any, Literal, TypeAlias

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from pgq_trio.abc import Backend
from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import Connection, connect
from pgq_trio.settings import Settings
from tests.property.agreement_racers import LEASE, JobRacer, Operation
from tests.property.agreement_worlds import EMPTY, START, MemorySide, set_time

#: Longer than this nothing takes, however busy the machine is.
PATIENCE = 60.0

#: Who is at it, and when each of them thinks it is, in seconds after the start: always, in whatever
#: order it comes.
WHO = ("first", "second", "third")
TIMES = {"first": 40.0, "second": 41.0, "third": 42.0}
AFTERWARDS = 50.0


#: How the server finds rows: as it likes, through an index, or by reading the table. It chooses by
#: the size of the table, which is small in a test.
Plan: TypeAlias = Literal["any", "index", "scan"]

_PLANS: dict[Plan, bytes] = {
    "any": b"SET enable_seqscan = on; SET enable_indexscan = on; SET enable_bitmapscan = on",
    "index": b"SET enable_seqscan = off; SET enable_indexscan = on; SET enable_bitmapscan = off",
    "scan": b"SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off",
}


@dataclass(frozen=True, kw_only=True)
class Race:
    """What there is and what happens: the first transaction, two others, and where it ends.

    `given`: the state of each job at the start, and its dedupe key.
    `end_before`: 0, the first one is over before the second begins; 1, before the third; 2, later.
    `plans`: how each of the three finds its rows; in which order it locks them follows from that.
    `limit`: of the one entrypoint that all jobs have; 0: each has its own.
    """

    racer: type[JobRacer] = JobRacer
    given: tuple[tuple[str, str | None], ...]
    first: Operation
    second: Operation
    third: Operation
    end_before: int
    commits: bool
    limit: int = 0
    plans: tuple[Plan, Plan, Plan] = ("any", "any", "any")

    @property
    def operations(self) -> dict[str, Operation]:
        """Who does what."""
        return dict(zip(WHO, (self.first, self.second, self.third), strict=True))


class Track:
    """Sessions on PostgreSQL in an event loop of their own thread that outlive an example."""

    def __init__(self, portal: BlockingPortal, sessions: Sequence[Connection[Any]]) -> None:
        self.portal = portal
        self._observer, *self._sessions = sessions

    def run(self, race: Race) -> None:
        """Run a race; raise AssertionError if it could not have come so one by one."""
        self.portal.call(self._run_one_by_one, race)

    def run_limited(self, race: Race) -> None:
        """Run a race; raise AssertionError if the limit was exceeded, or a free seat forgotten."""
        self.portal.call(self._run_limited, race)

    async def _run_one_by_one(self, race: Race) -> None:
        racer, replies, got = await self._run(race)
        came = await _what_came(racer, replies)
        possible = [await _one_by_one(race, got, order) for order in permutations(replies)]
        assert came in possible, came

    async def _run_limited(self, race: Race) -> None:
        racer, _, _ = await self._run(race)
        for is_last in (False, True):
            jobs = await racer.backend.insights.browse(
                limit=999, offset=0, statuses=None, entrypoints=None
            )
            slots = [job.slot for job in jobs if job.status == "picked"]
            assert set(slots) <= {*range(race.limit)}, slots
            assert len(set(slots)) == len(slots), slots
            if is_last:
                waiting = any(job.status == "queued" for job in jobs)
                assert not waiting or len(slots) == race.limit
            else:
                await racer.rest()

    async def _run(
        self, race: Race
    ) -> tuple[JobRacer, dict[str, object], dict[str, list[str] | None]]:
        """Run a race; return who can look afterwards, the replies, and what claims got."""
        await self._sessions[0].rollback()  # of a race that failed
        await self._observer.execute(EMPTY, prepare=True)
        setup = race.racer(_backend(self._observer), race.limit)
        await _prepare(race, setup, partial(_set_time, self._observer))
        racers = {
            who: setup.beside(_backend(session))
            for who, session in zip(WHO, self._sessions, strict=True)
        }
        with anyio.fail_after(PATIENCE):
            replies = await self._play(race, racers)
        await _set_time(self._observer, AFTERWARDS)
        return setup, replies, {who: racer.got for who, racer in racers.items()}

    async def _play(self, race: Race, racers: dict[str, JobRacer]) -> dict[str, object]:
        """Return the replies to what took effect."""
        holder = self._sessions[0]
        replies: dict[str, object] = {}
        await self._do(racers, race, "first", replies)
        is_over = replies["first"] == "duplicate"
        if is_over:
            await holder.rollback()
        elif not race.commits:
            del replies["first"]
        async with anyio.create_task_group() as tasks:
            for n, who in enumerate(WHO[1:]):
                if n == race.end_before and not is_over:
                    is_over = True
                    await (holder.commit() if race.commits else holder.rollback())
                tasks.start_soon(self._do, racers, race, who, replies)
                await self._until_done_or_waiting(who, replies)
            if not is_over:
                await (holder.commit() if race.commits else holder.rollback())
        return replies

    async def _do(
        self, racers: dict[str, JobRacer], race: Race, who: str, replies: dict[str, object]
    ) -> None:
        session = self._sessions[WHO.index(who)]
        await session.execute(_PLANS[race.plans[WHO.index(who)]])
        await _set_time(session, TIMES[who])
        if who == "first":
            await session.commit()
        replies[who] = await racers[who].do(who, race.operations[who])

    async def _until_done_or_waiting(self, who: str, replies: dict[str, object]) -> None:
        """Return when an operation is done or waits for a lock."""
        pid = self._sessions[WHO.index(who)].info.backend_pid
        while who not in replies:
            cursor = await self._observer.execute(
                b"SELECT pg_blocking_pids(%s) <> '{}'", [pid], prepare=True
            )
            if await cursor.fetchone() == (True,):
                return


def _backend(connection: Connection[Any]) -> Backend:
    return PsycopgDriver(connection).backend(Settings())


async def _set_time(session: Connection[Any], seconds: float) -> None:
    await set_time(session, START + timedelta(seconds=seconds))


async def _prepare(
    race: Race, racer: JobRacer, set_time: Callable[[float], Awaitable[None]]
) -> None:
    """Make the jobs that there are at the start; a key is taken by the first that wants it."""
    time = 0.0
    for state in racer.STATES:
        if state == racer.LATER:
            time += LEASE
        for n, (wanted, key) in enumerate(race.given):
            if wanted == state:
                for step in racer.making(n, state, key):
                    time += 0.001
                    await set_time(time)
                    await step()


async def _one_by_one(race: Race, got: dict[str, list[str] | None], order: Sequence[str]) -> object:
    """Do the same operations one after another in memory; a claim gets what it got."""
    side = MemorySide(Settings())

    async def set_time(seconds: float) -> None:
        await side.set_time(START + timedelta(seconds=seconds))

    racer = race.racer(side.backend)
    await _prepare(race, racer, set_time)
    replies: dict[str, object] = {}
    for who in order:
        await set_time(TIMES[who])
        replies[who] = await racer.do(who, race.operations[who], only=got[who])
    await set_time(AFTERWARDS)
    return await _what_came(racer, replies)


async def _what_came(racer: JobRacer, replies: dict[str, object]) -> object:
    """Return the replies, the tables, and what a worker gets that comes now."""
    tables = await racer.tables()
    plain = {who: racer.plain(reply) for who, reply in replies.items()}
    return plain, tables, await racer.rest()


@asynccontextmanager
async def _sessions(dsn: str) -> AsyncGenerator[list[Connection[Any]]]:
    async with (
        await connect(dsn, autocommit=True) as observer,
        await connect(dsn) as holder,
        await connect(dsn, autocommit=True) as second,
        await connect(dsn, autocommit=True) as third,
    ):
        for session in (holder, second, third):
            # A plan that is kept would be that of an earlier race.
            await session.execute("SET plan_cache_mode = force_custom_plan")
        await holder.commit()
        yield [observer, holder, second, third]


@contextmanager
def open_track(dsn: str, backend: str) -> Iterator[Track]:
    """Open sessions on a database made by `clock_database`, on one of the event loops."""
    with (
        start_blocking_portal(backend=backend) as portal,
        portal.wrap_async_context_manager(_sessions(dsn)) as sessions,
    ):
        yield Track(portal, sessions)
