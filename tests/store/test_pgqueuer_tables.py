"""The store and PgQueuer 1.6.0 share tables, on an installation of either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.queries import Queries
from pgqueuer.types import QueueEntrypoint, QueueManagerId

from pgq_trio.model.outcomes import Outcome
from pgq_trio.model.wire import TableChanged
from pgq_trio.settings import Settings
from tests.schema import pgqueuers
from tests.servers import MakeDsn
from tests.store.postgres_world import pool_world
from tests.store.world import ALICE, BOB, LEASE, UPDATED, Heard, World, fence, new


@pytest.fixture(params=["ours", "theirs"])
def installed(request: pytest.FixtureRequest, make_dsn: MakeDsn, install_sql: list[str]) -> str:
    dsn = make_dsn()
    if request.param == "theirs":
        pgqueuers.install(dsn)
    else:
        for statement in install_sql:
            pgqueuers.fetch(dsn, statement)
    return dsn


@pytest.fixture
async def world(installed: str) -> AsyncIterator[World]:
    async with pool_world(installed, Settings()) as world:
        yield world


async def until_woken(heard: Heard) -> None:
    while (event := await heard.next()) != UPDATED:
        # PgQueuer's trigger speaks up for any DELETE, also one without rows.
        assert event == TableChanged("delete")


async def test_a_whole_life(world: World) -> None:
    await world.enqueue(new(key="k"), new("b", b"x", headers={"h": 1}))
    first, second = (await world.claim({"a": 1, "b": 0})).jobs
    async with world.listening() as heard:
        # What makes rows runnable tells so itself: PgQueuer's trigger is silent on updates.
        await world.finish([first], Outcome("retry", delay=timedelta(0)))
        await until_woken(heard)
        await world.backend.jobs.release(ALICE, [fence(second)])
        await until_woken(heard)
    jobs = (await world.claim({"a": 1, "b": 0})).jobs
    assert [job.attempts for job in jobs] == [1, 0]
    await world.finish(jobs, Outcome("failed"))
    async with world.listening() as heard:
        assert len(await world.backend.jobs.requeue([job.id for job in jobs])) == 2
        await until_woken(heard)
    assert await world.finish((await world.claim()).jobs) == {first.id, second.id}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestTogether:
    async def test_their_jobs_are_ours(self, world: World, installed: str) -> None:
        async def enqueue(queries: Queries) -> list[Any]:
            return await queries.enqueue(
                ["a", "a"],
                [b"1", None],
                [0, 5],
                [None, None],
                ["k", None],
                [cast("dict[str, str]", {"h": [1]}), None],
            )

        ids = await pgqueuers.with_queries(installed, enqueue)
        urgent, job = (await world.claim()).jobs
        assert [job.id, urgent.id] == ids
        assert (job.payload, job.headers, job.dedupe_key) == (b"1", {"h": [1]}, "k")
        assert (urgent.payload, urgent.headers) == (None, None)
        await world.finish([job])
        await world.finish([urgent], Outcome("failed"))
        states = await pgqueuers.with_queries(installed, lambda q: q.job_status(ids))
        assert dict(states) == {ids[0]: "successful", ids[1]: "failed"}

    async def test_our_jobs_are_theirs(self, world: World, installed: str) -> None:
        ids = await world.enqueue_ids(new("a", b"1", headers={"h": 1}), new("a"), new("a"))

        async def dequeue(queries: Queries) -> list[Any]:
            return await queries.dequeue(
                batch_size=2,
                entrypoints={
                    QueueEntrypoint("a"): EntrypointExecutionParameter(concurrency_limit=2)
                },
                queue_manager_id=QueueManagerId(BOB),
                global_concurrency_limit=None,
                heartbeat_timeout=timedelta(seconds=LEASE),
            )

        theirs = await pgqueuers.with_queries(installed, dequeue)
        assert [job.id for job in theirs] == ids[:2]
        assert (theirs[0].payload, theirs[0].headers) == (b"1", {"h": 1})
        # They hold both seats; when their leases expire we take the jobs over, seats and all.
        claimed = await world.claim({"a": 2})
        assert claimed.jobs == []
        await world.pass_time(LEASE + 1)
        rescued = (await world.claim({"a": 2})).jobs
        assert [(job.id, job.attempts, job.slot) for job in rescued] == [
            (ids[0], 1, 0),
            (ids[1], 1, 1),
        ]
        assert await pgqueuers.with_queries(installed, dequeue) == []
