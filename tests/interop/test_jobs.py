"""Jobs that one package enqueues and the other runs."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from pgq_trio import PsycopgDriver, Queries
from pgq_trio.postgres import open_pool
from tests.interop.peer import open_peer
from tests.interop.sides import Book, Crowd, Headers, Ours, Pair, Theirs

PAYLOADS = [None, b"", b"\x00a\x00\xff", "grün".encode(), bytes(range(256)) * 4096]
HEADERS: list[Headers | None] = [None, {}, {"a": 1, "b": [None, "ü"]}, {"c": {"d": 1.5}}, None]


async def test_payload_and_headers(pair: Pair) -> None:
    ids = await pair.one.enqueue_all(PAYLOADS, headers=HEADERS)
    seen = await pair.other.drain()
    assert [(job.id, job.payload, job.headers) for job in seen] == list(
        zip(ids, PAYLOADS, HEADERS, strict=True)
    )
    assert {job.entrypoint for job in seen} == {"a"}
    assert pair.empty()
    for job_id in ids:
        assert pair.one.log(job_id) == ["queued", "picked", "successful"]
        assert await pair.one.status(job_id) == await pair.other.status(job_id) == "successful"


async def test_the_highest_priority_first_then_the_oldest(pair: Pair) -> None:
    priorities = [0, 5, -1, 5, 2_147_483_647, -2_147_483_648]
    ids = await pair.one.enqueue_all([None] * 6, priorities=priorities)
    late = await pair.other.enqueue(priority=5)
    seen = await pair.other.drain()
    assert [job.id for job in seen] == [ids[4], ids[1], ids[3], late, ids[0], ids[2], ids[5]]
    assert [job.priority for job in seen] == [priorities[4], 5, 5, 5, 0, -1, priorities[5]]


async def test_an_idle_worker_is_woken_by_the_other_s_enqueue(pair: Pair) -> None:
    # Both poll every 30 s, longer than the test waits.
    async with pair.other.work() as worker:
        first = await pair.one.enqueue(b"1")
        assert [job.id for job in await worker.jobs(1)] == [first]
        await pair.quiet()
        second = await pair.one.enqueue(b"2")
        assert [job.id for job in await worker.jobs(2)] == [first, second]


async def test_a_delay(pair: Pair) -> None:
    delay = timedelta(seconds=0.3)
    async with pair.other.work() as worker:
        later = await pair.one.enqueue(after=delay)
        now = await pair.one.enqueue()
        jobs = {job.id: job for job in await worker.jobs(2)}
    assert jobs.keys() == {now, later}
    second = jobs[later]
    assert second.started >= second.execute_after
    [(stored,)] = pair.fetch(
        "SELECT %s::timestamptz - created FROM pgqueuer_log WHERE job_id = %s AND status='queued'",
        second.execute_after,
        later,
    )
    assert stored == delay


async def test_a_job_far_in_the_future_waits(pair: Pair) -> None:
    far = await pair.one.enqueue(after=timedelta(days=20_000))
    due = await pair.one.enqueue()
    async with pair.other.work() as worker:
        assert [job.id for job in await worker.jobs(1)] == [due]
    assert pair.other.log(far) == ["queued"]


async def test_a_name_that_only_the_other_side_serves(pair: Pair) -> None:
    ids = await pair.one.enqueue_all([b"x"], name="only there")
    async with pair.one.work(name="here") as worker:
        seen = await pair.other.drain(name="only there")
        assert [job.id for job in seen] == ids
        here = await pair.other.enqueue(name="here")
        assert [job.id for job in await worker.jobs(1)] == [here]


async def test_a_large_batch(pair: Pair) -> None:
    count = 2500
    ids = await pair.one.enqueue_all([str(n).encode() for n in range(count)])
    assert len(set(ids)) == count
    assert ids == sorted(ids)
    async with pair.one.work() as one, pair.other.work() as other:
        while len(await one.jobs(0)) + len(await other.jobs(0)) < count:
            await pair.other.status(ids[0])
        seen = [*await one.jobs(0), *await other.jobs(0)]
    assert sorted(job.id for job in seen) == ids
    assert {job.id: job.payload for job in seen} == {
        job_id: str(n).encode() for n, job_id in enumerate(ids)
    }
    assert pair.empty()


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize(
    "shared_dsn",
    [
        "installed-by-pgqueuer"
    ],  # our own trigger is silent on DELETE, see docs/reference/pgqueuer.md
    indirect=True,
)
async def test_their_drain_mode_ends_with_its_last_job(pair: Pair) -> None:
    await pair.ours.enqueue()
    book = await pair.theirs.peer.make(lambda: Book("return", Crowd()))  # a job takes a moment
    with anyio.fail_after(1.5):
        await pair.theirs.drain_with(book, timedelta(seconds=10))
    assert pair.empty()


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize("shared_dsn", ["installed-by-us"], indirect=True)
class TestTheirPsycopgDriver:
    async def test_producer_and_worker(self, shared_dsn: str, direction: str) -> None:
        async with open_pool(shared_dsn) as pool, open_peer(shared_dsn, "psycopg") as peer:
            ours = Ours(shared_dsn, Queries(PsycopgDriver(pool)))
            theirs = Theirs(shared_dsn, peer)
            ids = await theirs.enqueue_all(PAYLOADS, headers=HEADERS)
            seen = await ours.drain()
            assert [(job.id, job.payload, job.headers) for job in seen] == list(
                zip(ids, PAYLOADS, HEADERS, strict=True)
            )
            ids = await ours.enqueue_all(PAYLOADS, headers=HEADERS)
            async with theirs.work("wait") as worker:
                assert [job.payload for job in await worker.jobs(len(ids))] == PAYLOADS
                await ours.cancel(*ids[1:])
                assert sorted(await worker.cancelled(len(ids) - 1)) == ids[1:]
            assert [ours.log(job_id)[-1] for job_id in ids[:2]] == ["successful", "canceled"]
