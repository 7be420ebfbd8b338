"""The memory store and PostgreSQL agree, step by step, under the same drawn commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from pgq_trio.abc import ClaimRequest
from pgq_trio.db import InMemoryDriver, PsycopgDriver
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.outcomes import Claim, Finished, Outcome, OutcomeKind
from pgq_trio.models import Job
from pgq_trio.postgres import connect
from pgq_trio.settings import Settings
from pgq_trio.types import OnConflict
from tests.conftest import NEWEST_SERVER
from tests.servers import PostgresServer
from tests.store.conftest import TRUNCATE
from tests.store.postgres_world import passing_on
from tests.store.world import ALICE, BOB, LEASE, ManualClock, World, new

Command: TypeAlias = tuple[Any, ...]

EXAMPLES = 60

entrypoints = st.sampled_from("ab")
workers = st.sampled_from([ALICE, BOB])
#: Which of the jobs, or of the claims, seen so far.
picks = st.lists(st.integers(0, 40), max_size=4)
new_job = st.tuples(
    entrypoints,
    st.integers(0, 2),
    st.sampled_from([None, None, 0, 24, 100]),
    st.sampled_from([None, None, None, "k", "l"]),
)
command = st.one_of(
    st.tuples(
        st.just("enqueue"),
        st.lists(new_job, min_size=1, max_size=5),
        st.sampled_from(["raise", "skip", "update_priority"]),
    ),
    st.tuples(
        st.just("claim"),
        workers,
        st.fixed_dictionaries({}, optional={"a": st.integers(0, 2), "b": st.integers(0, 2)}),
        st.integers(1, 6),
        st.integers(0, 3),
    ),
    st.tuples(
        st.just("finish"),
        workers,
        st.lists(
            st.tuples(
                st.integers(0, 40),
                st.sampled_from(["successful", "exception", "failed", "canceled", "retry"]),
                st.sampled_from([0, 24]),
            ),
            max_size=4,
            unique_by=lambda item: item[0],
        ),
    ),
    st.tuples(st.just("release"), workers, picks),
    st.tuples(st.just("heartbeat"), workers, picks),
    st.tuples(st.just("cancel"), picks),
    st.tuples(st.just("requeue"), picks),
    st.tuples(st.just("clear"), st.one_of(st.none(), st.sets(entrypoints))),
    # Never a sum that hits a due time or the lease.
    st.tuples(st.just("wait"), st.sampled_from([7, 34])),
)


@dataclass(slots=True)
class Player:
    """Plays commands on one store, in which jobs are called by the order of their making."""

    world: World
    is_rough: bool = False
    ids: list[int | None] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    async def play(self, command: Command) -> object:
        kind, *arguments = command
        answer = await getattr(self, f"play_{kind}")(*arguments)
        return answer, await self.look()

    async def look(self) -> object:
        jobs = self.world.backend.jobs
        log = [(self.name(x.job_id), x.status, x.priority) for x in await jobs.log()]
        known = [job_id for job_id in self.ids if job_id is not None]
        states = await jobs.job_status(known)
        held = [self.plain(job) for job in await jobs.failed_jobs(limit=99)]
        return (
            sorted(log),
            await jobs.queue_size(),
            {self.name(job_id): state for job_id, state in states.items()},
            sorted(held),
        )

    def name(self, job_id: int) -> int:
        return self.ids.index(job_id)

    def names(self, ids: set[int]) -> list[int]:
        return sorted(map(self.name, ids))

    def plain(self, job: Job) -> tuple[object, ...]:
        return (
            self.name(job.id), job.priority, job.status, job.entrypoint, job.attempts,
            str(job.queue_manager_id), str(job.dedupe_key), str(job.slot),
        )  # fmt: skip

    def called(self, picks: list[int]) -> list[int]:
        ids = [self.ids[n % len(self.ids)] for n in picks] if self.ids else []
        return [job_id for job_id in ids if job_id is not None]

    def chosen(self, picks: list[int]) -> list[Claim]:
        if not self.claims:
            return []
        return [self.claims[n] for n in sorted({n % len(self.claims) for n in picks})]

    async def play_enqueue(self, jobs: list[tuple[Any, ...]], on_conflict: OnConflict) -> object:
        batch = [
            new(entrypoint, priority=priority, after=_after(after), key=key)
            for entrypoint, priority, after, key in jobs
        ]
        try:
            ids = await self.world.enqueue(*batch, on_conflict=on_conflict)
        except DuplicateJobError as exc:
            return exc.dedupe_key
        self.ids += [job_id if job_id not in self.ids else None for job_id in ids]
        # An id that is there twice is the same job for both stores.
        return [None if job_id is None else self.name(job_id) for job_id in ids]

    async def play_claim(
        self, worker: UUID, limits: dict[str, int], batch: int, limited: int
    ) -> object:
        claimed = await self.world.backend.jobs.claim(
            ClaimRequest(
                queue_manager_id=worker,
                limits=limits,
                batch_size=batch,
                limited_batch_size=limited,
                heartbeat_timeout=LEASE,
            )
        )
        self.claims += [Claim(job.id, job.updated) for job in claimed.jobs]
        # PostgreSQL's time goes on by itself, by less than two seconds in an example.
        rough = [
            pytest.approx(due, abs=2) if self.is_rough and due is not None else due
            for due in (claimed.next_due, claimed.next_later)
        ]
        return [self.plain(job) for job in claimed.jobs], rough

    async def play_finish(
        self, worker: UUID, outcomes: list[tuple[int, OutcomeKind, float]]
    ) -> object:
        finished: dict[int, Finished] = {}
        for n, kind, delay in outcomes:
            if self.claims:
                claim = self.claims[n % len(self.claims)]
                outcome = Outcome(kind, delay=timedelta(seconds=delay))
                finished.setdefault(claim.job_id, Finished(claim, outcome))
        return self.names(await self.world.backend.jobs.finish(worker, list(finished.values())))

    async def play_release(self, worker: UUID, picks: list[int]) -> object:
        return self.names(await self.world.backend.jobs.release(worker, self.chosen(picks)))

    async def play_heartbeat(self, worker: UUID, picks: list[int]) -> object:
        return self.names(await self.world.backend.jobs.heartbeat(worker, self.chosen(picks)))

    async def play_cancel(self, picks: list[int]) -> object:
        return self.names(await self.world.backend.jobs.cancel(self.called(picks)))

    async def play_requeue(self, picks: list[int]) -> object:
        return self.names(await self.world.backend.jobs.requeue(self.called(picks)))

    async def play_clear(self, entrypoints: set[str] | None) -> object:
        return await self.world.backend.jobs.clear(entrypoints)

    async def play_wait(self, seconds: float) -> object:
        await self.world.pass_time(seconds)
        return None


def _after(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


async def play_both(dsn: str, commands: list[Command]) -> None:
    clock = ManualClock()
    memory = Player(World(InMemoryDriver(clock).backend(Settings()), clock.advance), is_rough=True)
    async with await connect(dsn, autocommit=True) as connection:
        await connection.execute(f"{TRUNCATE} RESTART IDENTITY".encode())
        backend = PsycopgDriver(connection).backend(Settings())
        postgres = Player(World(backend, passing_on(connection, Settings())))
        for step, each in enumerate(commands):
            expected = await postgres.play(each)
            assert await memory.play(each) == expected, f"step {step}: {each}"


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer, install_sql: list[str]) -> Iterator[str]:
    with postgres_server.fresh_database(install_sql) as conninfo:
        yield conninfo


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("postgres_server", NEWEST_SERVER, indirect=True, scope="session")
def test_the_stores_agree(database: str, backend: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=set(Phase) - {Phase.explain},  # it traces the code, at 30 times the time
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(commands=st.lists(command, min_size=5, max_size=30))
    def agree(commands: list[Command]) -> None:
        anyio.run(play_both, database, commands, backend=backend)

    psycopg.connect(database).close()
    agree()
