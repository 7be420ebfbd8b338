"""Concurrency limits that hold over a fleet of workers of both kinds."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import psycopg
import pytest

from tests.interop.sides import AtWork, Crowd, Pair, Side
from tests.worker.tools import until

LIMIT = 3
JOBS = 60


async def most_picked(dsn: str) -> int:
    """Look at the table until it is empty; how many rows were picked at once at the most."""
    most = 0
    with psycopg.connect(dsn, autocommit=True) as aside:
        while True:
            row = aside.execute(
                "SELECT count(*), count(*) FILTER (WHERE status = 'picked'),"
                " count(DISTINCT slot) FILTER (WHERE status = 'picked'), max(slot) FROM pgqueuer"
            ).fetchone()
            assert row is not None
            left, picked, slots, highest = row
            assert isinstance(picked, int)
            assert slots == picked
            assert highest is None or highest < LIMIT
            most = max(most, picked)
            if not left:
                return most
            await anyio.sleep(0.002)


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize(
    ("shared_dsn", "each"),
    [("installed-by-us", 2), ("installed-by-pgqueuer", 1)],
    indirect=["shared_dsn"],
)
async def test_a_limit_holds_over_a_mixed_fleet(pair: Pair, each: int) -> None:
    crowd = Crowd()
    ids = await pair.ours.enqueue_all([None] * JOBS)
    async with AsyncExitStack() as fleet:

        async def hire(side: Side) -> list[AtWork]:
            workers = [side.work(limit=LIMIT, crowd=crowd) for _ in range(each)]
            return [await fleet.enter_async_context(worker) for worker in workers]

        # All start at once: who gets how many is up to them.
        theirs, ours = await hire(pair.theirs), await hire(pair.ours)
        assert await most_picked(pair.dsn) <= LIMIT
        done = [await worker.jobs(0) for worker in (*theirs, *ours)]
    assert sorted(job.id for part in done for job in part) == ids
    assert 1 < crowd.most <= LIMIT
    log = "SELECT status::text, count(*) FROM pgqueuer_log GROUP BY 1 ORDER BY 1"
    assert pair.fetch(log) == [("picked", JOBS), ("queued", JOBS), ("successful", JOBS)]


async def test_a_slot_that_one_frees_is_used_by_the_other(pair: Pair) -> None:
    async with AsyncExitStack() as stack:
        busy = await stack.enter_async_context(pair.one.work("wait", limit=LIMIT))
        first = await pair.one.enqueue_all([None] * LIMIT)
        assert sorted(job.id for job in await busy.jobs(LIMIT)) == first
        async with pair.other.work("wait", limit=LIMIT) as waiting:
            last = await pair.one.enqueue()
            other = await pair.one.enqueue()
            await stack.aclose()  # its jobs end, and it claims no more
            assert [job.id for job in await waiting.jobs(2)] == [last, other]
            slots = "SELECT id, slot FROM pgqueuer ORDER BY id"
            assert pair.fetch(slots) == [(last, 0), (other, 1)]


async def has_looked_in_vain(pair: Pair) -> bool:
    """Whether a claim was the last that a session of ours did, a while ago."""
    return (
        pair.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
            " AND query LIKE 'WITH entry AS%' AND state_change < now() - interval '0.1 seconds'"
        )
        != []
    )


@pytest.mark.parametrize("direction", ["theirs-first"])
@pytest.mark.parametrize("shared_dsn", ["installed-by-pgqueuer"], indirect=True)
async def test_our_saturated_worker_hears_that_theirs_has_freed_a_slot(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the looks that it takes now and then.
    monkeypatch.setattr("pgq_trio.worker.claimer.BLOCKED_INITIAL", 60.0)
    monkeypatch.setattr("pgq_trio.worker.claimer.BLOCKED_MAXIMUM", 60.0)
    async with AsyncExitStack() as stack:
        busy = await stack.enter_async_context(pair.theirs.work("wait", limit=1))
        await pair.ours.enqueue()
        await busy.jobs(1)
        last = await pair.ours.enqueue()
        async with pair.ours.work(limit=1) as waiting:
            await until(lambda: has_looked_in_vain(pair))
            await stack.aclose()
            assert [job.id for job in await waiting.jobs(1)] == [last]
