"""How many jobs run, how many are claimed ahead, in which order, and in how large claims."""

from __future__ import annotations

import anyio
import pytest

from pgq_trio import Context, Job, Settings
from pgq_trio.abc import Claimed, ClaimRequest
from pgq_trio.testing import Call, UnreliableDriver
from pgq_trio.worker.options import RunArguments
from tests.worker.tools import Gate, Place, drain, in_table, running, until


@pytest.mark.parametrize("option", ["max_concurrent_jobs", "max_concurrent_tasks"])
async def test_as_many_as_allowed_run_and_never_more(place: Place, option: str) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        ids = await pgq.queries.enqueue(["it"] * 40)
        options: RunArguments = (
            {"max_concurrent_jobs": 7}
            if option == "max_concurrent_jobs"
            else {"max_concurrent_tasks": 7}
        )
        async with running(pgq, **options):
            await gate.entered.until(7)
            gate.open()
            await gate.left.until(40)
        assert gate.most == 7
        assert sorted(gate.left.entries) == ids


async def test_the_maximum_is_reached_again_after_every_end(place: Place) -> None:
    """Whenever enough are due: a job that ends is replaced, whatever the batch size."""
    turn = [anyio.Event() for _ in range(30)]
    inside: set[int] = set()
    changed = anyio.Event()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            nonlocal changed
            assert job.payload is not None
            number = int(job.payload)
            inside.add(number)
            changed.set()
            changed = anyio.Event()
            await turn[number].wait()
            inside.discard(number)

        await pgq.queries.enqueue(["it"] * 30, [b"%d" % n for n in range(30)])
        async with running(pgq, max_concurrent_jobs=4, batch_size=3):
            for number in range(27):
                with anyio.fail_after(5):
                    while len(inside) < min(4, 30 - number):
                        await changed.wait()
                assert inside == set(range(number, min(number + 4, 30)))
                turn[number].set()
                with anyio.fail_after(5):
                    while number in inside:
                        await anyio.lowlevel.checkpoint()
            for event in turn:
                event.set()


async def test_claims_never_exceed_twice_the_maximum_and_respect_batch_size(place: Place) -> None:
    gate = Gate()
    picked: list[int] = []
    asked: list[int] = []
    got: list[int] = []
    async with place.driver() as driver:
        watched, real = UnreliableDriver(driver), driver.backend(Settings()).jobs

        async def before(call: Call) -> None:
            if isinstance(request := call.arguments.get("request"), ClaimRequest):
                asked.append(request.batch_size)

        async def after(call: Call) -> None:
            if isinstance(call.result, Claimed):
                got.append(len(call.result.jobs))
                sizes = await real.queue_size()
                picked.append(sum(entry.count for entry in sizes if entry.status == "picked"))

        watched.before, watched.after = before, after
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                gate.entered.add(job.id)
                await anyio.sleep(0.001 * (job.id % 4))

            ids = await pgq.queries.enqueue(["it"] * 200)
            await drain(pgq, max_concurrent_jobs=10, batch_size=6)
    assert sorted(gate.entered.entries) == ids
    # Rows whose outcome is on its way still stand there as picked: they hold no place of others.
    assert max(got) <= max(asked) <= 6
    assert sum(got) == 200


@pytest.mark.parametrize("maximum", [1, 5, 100])
async def test_prefetch_is_at_most_as_many_again(place: Place, maximum: int) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        await pgq.queries.enqueue(["it"] * 300)
        async with running(pgq, max_concurrent_jobs=maximum):
            await gate.entered.until(maximum)

            async def claimed_ahead() -> bool:
                return (await in_table(pgq.queries))["picked"] > maximum

            await until(claimed_ahead)
            for _ in range(20):
                assert (await in_table(pgq.queries))["picked"] <= 2 * maximum
            pgq.request_shutdown(0)


async def test_highest_priority_first_then_lowest_id(place: Place) -> None:
    order: list[int] = []
    async with place.open() as pgq:

        async def note(job: Job) -> None:
            order.append(job.id)

        pgq.entrypoint("a")(note)
        pgq.entrypoint("b")(note)
        priorities = [0, 5, -3, 5, 0, 9, -3, 0]
        ids = await pgq.queries.enqueue(["a", "b"] * 4, priority=priorities)
        await drain(pgq, max_concurrent_jobs=1, batch_size=3)
    expected = sorted(zip([-p for p in priorities], ids, strict=True))
    assert order == [job_id for _, job_id in expected]


async def test_a_concurrency_limit_holds_over_two_workers(place: Place) -> None:
    free = Gate()
    free.open()
    limited = Gate()
    async with place.open() as first, place.open() as second:
        for pgq in (first, second):

            @pgq.entrypoint("limited", concurrency_limit=3)
            async def run_limited(job: Job) -> None:
                limited.inside += 1
                limited.most = max(limited.most, limited.inside)
                await anyio.sleep(0.005)
                limited.inside -= 1
                limited.left.add(job.id)

            @pgq.entrypoint("free")
            async def run_free(job: Job) -> None:
                await free.pass_through(job.id)

        ids = await first.queries.enqueue(["limited", "free"] * 30)
        async with running(first, max_concurrent_jobs=5), running(second, max_concurrent_jobs=5):
            await limited.left.until(30)
            await free.left.until(30)
    assert limited.most == 3
    assert sorted(limited.left.entries) == ids[::2]


async def test_no_seat_is_held_by_a_job_that_waits(place: Place) -> None:
    """A worker that is full takes no seat of a limit; the other worker gets them all."""
    blocked, seats = Gate(), Gate()
    async with place.open() as full, place.open() as idle:
        for pgq in (full, idle):

            @pgq.entrypoint("limited", concurrency_limit=2)
            async def run_limited(job: Job) -> None:
                await seats.pass_through(job.id)

        @full.entrypoint("blocked")
        async def run_blocked(job: Job) -> None:
            await blocked.pass_through(job.id)

        async with running(full, max_concurrent_jobs=2):
            await full.queries.enqueue(["blocked"] * 2)
            await blocked.entered.until(2)
            # Something to claim ahead, so that the full worker does look.
            await full.queries.enqueue(["limited", "blocked", "limited"])

            async def one_ahead() -> bool:
                return (await in_table(full.queries)).get("picked") == 3

            await until(one_ahead)
            async with running(idle):
                await seats.entered.until(2)
                seats.open()
                await seats.left.until(2)
            blocked.open()


async def test_a_freed_seat_is_taken_at_once_by_another_worker(place: Place) -> None:
    """Nobody waits for a look at the queue: what frees the seat wakes whoever waits for it."""
    seats = Gate()
    started: list[float] = []
    async with place.open() as first, place.open() as second:
        for pgq in (first, second):

            @pgq.entrypoint("limited", concurrency_limit=1)
            async def run_limited(job: Job) -> None:
                started.append(anyio.current_time())
                await seats.pass_through(job.id)

        async with running(first), running(second):
            await first.queries.enqueue(["limited"] * 2)
            await seats.entered.until(1)
            freed = anyio.current_time()
            seats.open()
            await seats.left.until(2)
    # By whom is open; the longest look at a saturated limit is 2 s apart.
    assert started[1] - freed < 1.0
