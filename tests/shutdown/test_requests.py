"""Being asked to stop: from anywhere, before or during a run, with and without patience."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from functools import partial

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from pgq_trio import Job, PgQueuer, Schedule
from pgq_trio.model.events import JobInterrupted
from pgq_trio.types import CancelReason
from tests.worker.tools import (
    SOON,
    Gate,
    Notes,
    Place,
    Watcher,
    in_table,
    outcome,
    queued_again,
    running,
    statuses,
    until,
)


def held(pgq: PgQueuer, gate: Gate) -> None:
    """Register a handler that stays inside of the gate."""

    @pgq.entrypoint("it")
    async def handler(job: Job) -> None:
        await gate.pass_through(job.id)


@pytest.mark.parametrize("origin", ["loop", "thread", "worker thread", "signal handler", "job"])
async def test_from_anywhere(place: Place, origin: str) -> None:
    async with place.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            if origin == "job":
                pgq.request_shutdown()

        previous = signal.signal(signal.SIGUSR1, lambda *_: pgq.request_shutdown())
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(partial(pgq.run, handle_signals=False))
                if origin == "loop":
                    pgq.request_shutdown()
                elif origin == "thread":
                    threading.Thread(target=pgq.request_shutdown).start()
                elif origin == "worker thread":
                    await anyio.to_thread.run_sync(pgq.request_shutdown)
                elif origin == "signal handler":
                    signal.raise_signal(signal.SIGUSR1)
                else:
                    await pgq.queries.enqueue("it")
        finally:
            signal.signal(signal.SIGUSR1, previous)


async def run(pgq: PgQueuer) -> None:
    with anyio.fail_after(SOON):
        await pgq.run(handle_signals=False)


async def test_before_run_it_holds_for_the_next_one_only(place: Place) -> None:
    gate = Gate()
    gate.open()
    async with place.open() as pgq:
        held(pgq, gate)
        (job_id,) = await pgq.queries.enqueue("it")
        pgq.request_shutdown()
        await run(pgq)
        assert await outcome(pgq.queries, job_id) in {"queued", "successful"}
        assert "picked" not in await in_table(pgq.queries)
        with anyio.fail_after(SOON):
            await pgq.run(mode="drain", handle_signals=False)
        assert await outcome(pgq.queries, job_id) == "successful"


@pytest.mark.parametrize("grace", [-1, "soon", float("nan")])
async def test_a_grace_period_that_cannot_be(grace: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        PgQueuer.in_memory().request_shutdown(grace)  # type: ignore[arg-type]


async def test_running_jobs_may_finish_and_waiting_ones_go_back_at_once(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:
        held(pgq, gate)
        ids = await pgq.queries.enqueue(["it"] * 6)
        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def _() -> None:
                await pgq.run(max_concurrent_jobs=2, grace_period=60, handle_signals=False)

            await gate.entered.until(2)

            async def prefetched() -> bool:
                return await in_table(pgq.queries) == {"picked": 4, "queued": 2}

            await until(prefetched)
            pgq.request_shutdown()

            async def given_back() -> bool:
                return await in_table(pgq.queries) == {"picked": 2, "queued": 4}

            await until(given_back)  # while the running ones are still inside
            assert gate.inside == 2
            (late,) = await pgq.queries.enqueue("it")
            gate.open()
        assert sorted(gate.left.entries) == ids[:2]
        for job_id in ids[:2]:
            assert await outcome(pgq.queries, job_id) == "successful"
        await queued_again(pgq.queries, "it", [*ids[2:], late])


async def test_after_the_grace_period_they_are_cancelled_and_queued_again(place: Place) -> None:
    gate = Gate()
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq:
        held(pgq, gate)
        ids = await pgq.queries.enqueue(["it"] * 3)
        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def _() -> None:
                await pgq.run(grace_period=timedelta(seconds=0.2), handle_signals=False)

            await gate.entered.until(3)
            asked = anyio.current_time()
            pgq.request_shutdown()
        assert 0.2 <= anyio.current_time() - asked < 5
        assert sorted(gate.left.entries) == ids
        reasons = {event.reason for event in watcher.of(JobInterrupted)}
        assert reasons == {CancelReason.shutdown}
        for job_id in ids:
            assert await statuses(pgq.queries, job_id) == ["queued", "picked", "queued"]
        await queued_again(pgq.queries, "it", ids)


async def test_a_later_request_can_only_shorten(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:
        held(pgq, gate)
        await pgq.queries.enqueue("it")
        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def _() -> None:
                await pgq.run(grace_period=0.3, handle_signals=False)

            await gate.entered.until(1)
            asked = anyio.current_time()
            pgq.request_shutdown()
            pgq.request_shutdown(3600)
        assert 0.3 <= anyio.current_time() - asked < 5

        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def _again() -> None:
                await pgq.run(grace_period=3600, handle_signals=False)

            await gate.entered.until(2)
            pgq.request_shutdown()
            await anyio.wait_all_tasks_blocked()
            asked = anyio.current_time()
            pgq.request_shutdown(0)
        assert anyio.current_time() - asked < 5


async def test_a_sync_job_that_is_cancelled_ends_when_its_thread_returns(place: Place) -> None:
    entered: Notes[int] = Notes()
    seen: list[str] = []
    async with place.open() as pgq:

        @pgq.entrypoint("asks")
        def asks(job: Job) -> None:
            anyio.from_thread.run_sync(entered.add, job.id)
            try:
                while True:
                    anyio.from_thread.check_cancelled()
                    threading.Event().wait(0.005)
            finally:
                seen.append("asks")

        @pgq.entrypoint("deaf")
        def deaf(job: Job) -> None:
            anyio.from_thread.run_sync(entered.add, job.id)
            threading.Event().wait(0.3)
            seen.append("deaf")

        first, second = await pgq.queries.enqueue(["asks", "deaf"])
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(pgq.run, handle_signals=False))
            await entered.until(2)
            pgq.request_shutdown(0)
        assert sorted(seen) == ["asks", "deaf"]
        await queued_again(pgq.queries, "asks", [first])
        # What returned in spite of the cancellation has done its work.
        assert await outcome(pgq.queries, second) == "successful"


async def test_an_error_in_the_cleanup_of_an_interrupted_job_is_no_outcome(place: Place) -> None:
    gate = Gate()
    async with place.open() as pgq:

        @pgq.entrypoint("it", on_failure="hold")
        async def handler(job: Job) -> None:
            try:
                await gate.pass_through(job.id)
            finally:
                raise ValueError("while it is cleaning up")

        (job_id,) = await pgq.queries.enqueue("it")
        async with running(pgq):
            await gate.entered.until(1)
            pgq.request_shutdown(0)
        await queued_again(pgq.queries, "it", [job_id])


async def test_schedules_stop_as_well(place: Place) -> None:
    fired: Notes[Schedule] = Notes()
    ended: list[str] = []
    async with place.open() as pgq:

        @pgq.schedule("tick", "* * * * * *")
        async def tick(schedule: Schedule) -> None:
            fired.add(schedule)
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("tick")

        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(pgq.run, handle_signals=False))
            await fired.until(1)
            pgq.request_shutdown(0.05)
        assert ended == ["tick"]
