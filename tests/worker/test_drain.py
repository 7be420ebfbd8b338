"""Drain mode ends when nothing due is left here, no sooner and no later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio

from pgq_trio import Job, QueueExecutionMode, RetryRequested, Schedule
from tests.worker.tools import Gate, Place, drain, in_table, running


async def test_an_empty_queue_ends_at_once(place: Place) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None: ...

        with anyio.fail_after(2):
            await pgq.run(mode=QueueExecutionMode.drain, handle_signals=False)
        with anyio.fail_after(2):  # and again
            await pgq.run(mode="drain", handle_signals=False)


async def test_deferred_jobs_and_foreign_names_do_not_hold_it(place: Place) -> None:
    ran: list[int] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.append(job.id)

        now, _, _, _ = await pgq.queries.enqueue(
            ["it", "it", "it", "foreign"],
            execute_after=[
                None, timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1), None,
            ],
        )  # fmt: skip
        await drain(pgq)
        assert ran == [now]
        assert await in_table(pgq.queries) == {"queued": 3}


async def test_what_a_job_enqueues_is_drained(place: Place) -> None:
    ran: list[bytes | None] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.append(job.payload)
            if job.payload != b"0":
                assert job.payload is not None
                await pgq.queries.enqueue("it", b"%d" % (int(job.payload) - 1))

        await pgq.queries.enqueue("it", b"20")
        await drain(pgq)
    assert ran == [b"%d" % n for n in range(20, -1, -1)]


async def test_an_immediate_retry_is_drained(place: Place) -> None:
    attempts: list[int] = []
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            attempts.append(job.attempts)
            if job.attempts < 20:
                raise RetryRequested(0)

        await pgq.queries.enqueue("it")
        await drain(pgq)
        assert await in_table(pgq.queries) == {}
    assert attempts == list(range(21))


async def test_a_job_that_waits_for_a_limit_counts_as_due(place: Place) -> None:
    """Here: the only seat is held by another worker while the drain begins."""
    seat, other = Gate(), Gate()
    async with place.open() as holder, place.open() as drainer:

        @holder.entrypoint("limited", concurrency_limit=1)
        async def hold(job: Job) -> None:
            await seat.pass_through(job.id)

        other.open()

        @drainer.entrypoint("limited", concurrency_limit=1)
        async def run(job: Job) -> None:
            await other.pass_through(job.id)

        async with running(holder):
            await holder.queries.enqueue("limited")
            await seat.entered.until(1)
            holder.request_shutdown()
            (second,) = await holder.queries.enqueue("limited")
            async with anyio.create_task_group() as tasks:
                over = anyio.Event()

                async def draining() -> None:
                    await drain(drainer)
                    over.set()

                tasks.start_soon(draining)
                with anyio.move_on_after(0.5):
                    await over.wait()
                assert not over.is_set()
                seat.open()
            assert other.left.entries == [second]


async def test_limits_within_one_worker_are_drained(place: Place) -> None:
    gate = Gate()
    gate.open()
    async with place.open() as pgq:

        @pgq.entrypoint("limited", concurrency_limit=2)
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        ids = await pgq.queries.enqueue(["limited"] * 50)
        await drain(pgq)
        assert gate.most == 2
        assert sorted(gate.left.entries) == ids


async def test_it_waits_for_running_jobs_and_their_outcomes(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)

        await pgq.queries.enqueue(["it"] * 3)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, pgq)
            await gate.entered.until(3)
            gate.open()
        assert await in_table(pgq.queries) == {}


async def test_schedules_do_not_fire(place: Place) -> None:
    fired: list[Schedule] = []
    gate = Gate()
    async with place.open() as pgq:

        @pgq.schedule("every second", "* * * * * *")
        async def tick(schedule: Schedule) -> None:
            fired.append(schedule)

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await anyio.sleep(1.1)
            gate.left.add(job.id)

        await pgq.queries.enqueue("it")
        await drain(pgq)
    assert not fired
    assert len(gate.left.entries) == 1
