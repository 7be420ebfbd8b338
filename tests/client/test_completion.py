"""Waiting for jobs to end: every end, any number of waiters, one LISTEN, and few looks."""

from __future__ import annotations

from datetime import timedelta
from typing import cast
from uuid import uuid4

import anyio
import anyio.lowlevel
import psycopg
import pytest

from pgq_trio import (
    CompletionWatcher,
    InMemoryDriver,
    PgqError,
    Queries,
    Settings,
)
from pgq_trio.errors import UnknownJob
from pgq_trio.model.outcomes import Claim, Finished, Outcome
from pgq_trio.postgres import connect
from pgq_trio.testing import UnreliableDriver
from pgq_trio.types import JobId
from tests.client.tools import (
    NEVER,
    OFTEN,
    both,
    execute,
    heard,
    looked,
    with_outcomes,
)
from tests.worker.tools import SOON, Place, claim, drain, running


@pytest.mark.usefixtures("no_early_looks")
@pytest.mark.parametrize(
    ("entrypoint", "payload", "expected"),
    [
        ("it", None, "successful"),
        ("it", b"retry", "successful"),
        ("it", b"exception", "exception"),
        ("held", None, "failed"),
    ],
)
async def test_what_a_worker_writes_is_told_at_once(
    place: Place, entrypoint: str, payload: bytes | None, expected: str
) -> None:
    async with (
        place.open() as elsewhere,
        place.open() as pgq,
        CompletionWatcher(pgq.queries, refresh_interval=NEVER) as watcher,
    ):
        gate = with_outcomes(elsewhere)
        async with running(elsewhere):
            (job_id,) = await pgq.queries.enqueue(entrypoint, payload)

            async def end() -> None:
                await heard(elsewhere)
                gate.open()

            assert await both(watcher, job_id, end) == expected
            with anyio.fail_after(SOON):
                assert await watcher.wait_for(job_id) == expected
                assert await pgq.queries.wait_for(job_id) == expected


@pytest.mark.usefixtures("no_early_looks")
async def test_cancelled_while_queued_and_while_running(place: Place) -> None:
    async with place.open() as pgq:
        gate = with_outcomes(pgq)
        async with (
            running(pgq),
            CompletionWatcher(pgq.queries, refresh_interval=NEVER) as watcher,
        ):
            (queued,) = await pgq.queries.enqueue("it", execute_after=NEVER)
            (picked,) = await pgq.queries.enqueue("it")
            await gate.entered.until(1)
            for job_id in (queued, picked):

                async def end(job_id: JobId = job_id) -> None:
                    await pgq.queries.mark_job_as_cancelled(job_id)

                assert await both(watcher, job_id, end) == "canceled"


async def test_cleared(place: Place) -> None:
    async with (
        place.open() as pgq,
        CompletionWatcher(pgq.queries, refresh_interval=OFTEN) as watcher,
    ):
        (job_id,) = await pgq.queries.enqueue("it")
        assert await both(watcher, job_id, pgq.queries.clear_queue) == "deleted"


async def hold(queries: Queries, entrypoint: str) -> JobId:
    """Enqueue a job and have it fail."""
    (job_id,) = await queries.enqueue(entrypoint)
    worker = uuid4()
    (job,) = await claim(queries.backend.jobs, [entrypoint], queue_manager_id=worker)
    held = Finished(Claim(job.id, job.updated), Outcome("failed"))
    assert await queries.backend.jobs.finish(worker, [held]) == {job_id}
    return job_id


async def test_a_job_that_is_requeued_is_waited_for_again(place: Place) -> None:
    async with (
        place.open() as pgq,
        CompletionWatcher(pgq.queries, refresh_interval=OFTEN) as watcher,
    ):
        job_id = await hold(pgq.queries, "it")
        assert await watcher.wait_for(job_id) == "failed"
        await pgq.queries.requeue_jobs(job_id)
        with_outcomes(pgq).open()
        assert await both(watcher, job_id, lambda: drain(pgq)) == "successful"


async def test_a_look_says_nothing_to_who_comes_while_it_is_under_way(place: Place) -> None:
    """It saw the job held; the one who comes has requeued it."""
    async with place.driver() as driver:
        looked_at = UnreliableDriver(driver)
        look = looked_at.hold("job_status", "reply")
        queries = Queries(looked_at)
        job_id = await hold(queries, "it")
        async with (
            CompletionWatcher(queries, refresh_interval=OFTEN) as watcher,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(watcher.wait_for, job_id)
            with anyio.fail_after(SOON):
                await look.until_arrived()
            await queries.requeue_jobs(job_id)

            async def end() -> None:
                await queries.mark_job_as_cancelled(job_id)

            async def let_it_go_on() -> None:
                await anyio.wait_all_tasks_blocked()
                look.release()

            tasks.start_soon(let_it_go_on)
            assert await both(watcher, job_id, end) == "canceled"


@pytest.mark.usefixtures("no_early_looks")
@pytest.mark.parametrize("state", ["queued", "picked"])
async def test_truncated(database: Place, state: str) -> None:
    """The trigger tells of it, the log says nothing."""
    async with (
        database.open() as pgq,
        CompletionWatcher(pgq.queries, refresh_interval=NEVER) as watcher,
    ):
        (job_id,) = await pgq.queries.enqueue("it")
        if state == "picked":
            await claim(pgq.queries.backend.jobs, ["it"])
        truncate = "TRUNCATE pgqueuer"
        assert await both(watcher, job_id, lambda: execute(database, truncate)) == "deleted"
        assert await pgq.queries.job_status([job_id]) == [(job_id, "deleted")]


@pytest.mark.parametrize("state", ["queued", "picked", "failed"])
async def test_deleted_by_hand(database: Place, state: str) -> None:
    async with database.open() as pgq:
        if state == "failed":
            job_id = await hold(pgq.queries, "it")
        else:
            (job_id,) = await pgq.queries.enqueue("it")
        if state == "picked":
            await claim(pgq.queries.backend.jobs, ["it"])
        await execute(database, "DELETE FROM pgqueuer WHERE id = %s", job_id)
        assert await pgq.queries.job_status([job_id]) == [(job_id, "deleted")]
        assert await pgq.queries.wait_for(job_id) == "deleted"


async def test_a_transaction_that_began_before_the_claim_may_end_the_job(database: Place) -> None:
    """`created` of its log row is older than that of the claim's."""
    assert isinstance(database.target, str)
    async with database.open() as pgq:
        (job_id,) = await pgq.queries.enqueue("it")
        target = database.target

        def cancel_late() -> None:
            with psycopg.connect(target) as connection:
                connection.execute("SELECT now()")
                anyio.from_thread.run(claim, pgq.queries.backend.jobs, ["it"])
                connection.execute(
                    "WITH gone AS (DELETE FROM pgqueuer RETURNING id, priority, entrypoint)"
                    " INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint)"
                    " SELECT id, 'canceled', priority, entrypoint FROM gone"
                )

        await anyio.to_thread.run_sync(cancel_late)
        assert await pgq.queries.wait_for(job_id) == "canceled"


class TestUnknown:
    async def test_nobody_knows_it(self, place: Place) -> None:
        async with place.open() as pgq:
            (known,) = await pgq.queries.enqueue("it")
            for job_id in (known + 1, -1, 2**63 - 1, 2**63, -(2**63) - 1):
                with anyio.fail_after(SOON), pytest.raises(UnknownJob, match=str(job_id)):
                    await pgq.queries.wait_for(job_id)

    async def test_a_transaction_that_is_not_committed(self, database: Place) -> None:
        assert isinstance(database.target, str)
        async with database.open() as pgq:
            async with await connect(database.target) as connection:
                cursor = await connection.execute(
                    "INSERT INTO pgqueuer (priority, status, entrypoint)"
                    " VALUES (0, 'queued', 'it') RETURNING id"
                )
                row = await cursor.fetchone()
                assert row is not None
                with pytest.raises(UnknownJob, match="not committed yet: wait after the commit"):
                    await pgq.queries.wait_for(row[0])
            async with CompletionWatcher(pgq.queries) as watcher:
                cancel = pgq.queries.mark_job_as_cancelled
                assert await both(watcher, row[0], lambda: cancel(row[0])) == "canceled"

    async def test_without_a_history_a_job_that_vanished_is_unknown(self, database: Place) -> None:
        async with database.driver() as driver:
            queries = Queries(driver, settings=Settings(history="outcomes"))
            async with CompletionWatcher(queries, refresh_interval=OFTEN) as watcher:
                (job_id,) = await queries.enqueue("it")
                with pytest.raises(ExceptionGroup) as caught:
                    await both(watcher, job_id, lambda: execute(database, "DELETE FROM pgqueuer"))
                assert all(isinstance(exc, UnknownJob) for exc in caught.value.exceptions)
                assert "it was in the queue and is gone" in str(caught.value.exceptions[0])

    @pytest.mark.parametrize("value", [None, "1", True, 1.0, [1]])
    async def test_what_is_no_id(self, value: object) -> None:
        async with Place("memory:").open() as pgq, CompletionWatcher(pgq.queries) as watcher:
            with pytest.raises(TypeError, match="id of one job"):
                await watcher.wait_for(cast("int", value))


class TestBlock:
    async def test_others_who_wait_when_it_is_left(self, place: Place) -> None:
        errors: list[PgqError] = []
        async with place.open() as pgq, anyio.create_task_group() as tasks:
            (job_id,) = await pgq.queries.enqueue("it")
            async with CompletionWatcher(pgq.queries) as watcher:

                async def wait() -> None:
                    try:
                        await watcher.wait_for(job_id)
                    except PgqError as exc:
                        errors.append(exc)

                tasks.start_soon(wait)
                await looked(watcher, 1)
            with pytest.raises(PgqError, match="left"):
                await watcher.wait_for(job_id)
            async with watcher:
                with anyio.move_on_after(0.01) as scope:
                    await watcher.wait_for(job_id)
                assert scope.cancelled_caught
                with pytest.raises(PgqError, match="open already"):
                    await watcher.__aenter__()
        assert "left" in str(errors[0])

    async def test_an_error_in_the_block_comes_out_as_it_is(self, place: Place) -> None:
        async with place.open() as pgq:
            for error in (ZeroDivisionError(), ExceptionGroup("one", [ValueError()])):
                with pytest.raises(type(error)) as caught:
                    async with CompletionWatcher(pgq.queries):
                        raise error
                assert caught.value is error

    async def test_a_deadline_of_one_is_not_that_of_others(self, place: Place) -> None:
        async with place.open() as pgq, CompletionWatcher(pgq.queries) as watcher:
            (job_id,) = await pgq.queries.enqueue("it")

            async def end() -> None:
                with anyio.move_on_after(0.02) as scope:
                    await watcher.wait_for(job_id)
                assert scope.cancelled_caught
                await pgq.queries.mark_job_as_cancelled(job_id)

            assert await both(watcher, job_id, end) == "canceled"

    async def test_outside_of_the_block(self) -> None:
        async with Place("memory:").open() as pgq:
            with pytest.raises(PgqError, match="not open"):
                await CompletionWatcher(pgq.queries).wait_for(1)

    def test_arguments(self) -> None:
        with pytest.raises(TypeError, match="takes a Queries"):
            CompletionWatcher(cast("Queries", "postgresql://"))
        queries = Queries(InMemoryDriver())
        CompletionWatcher(queries, refresh_interval=None, debounce=timedelta(0))
        with pytest.raises(ValueError, match="refresh_interval must be at least"):
            CompletionWatcher(queries, refresh_interval=0)
        with pytest.raises(ValueError, match="debounce must be at least"):
            CompletionWatcher(queries, debounce=-1)
        with pytest.raises(TypeError, match="refresh_interval must be"):
            CompletionWatcher(queries, refresh_interval=cast("float", "5"))


async def test_malformed_notifications_are_counted_and_ignored(place: Place) -> None:
    async with place.open() as pgq, CompletionWatcher(pgq.queries) as watcher:
        (job_id,) = await pgq.queries.enqueue("it")
        notify = pgq.queries.backend.notifier.notify
        huge = '{"type": "jobs_ended_event", "ids": [' + "9" * 4000 + ", 1]}"

        async def end() -> None:
            for channel in ("work", "outcomes"):
                await notify(channel, ["nonsense", '{"type": "jobs_ended_event", "ids": [null]}'])
            await notify("outcomes", [huge, '{"type": "outcomes_wanted_event"}'])
            await pgq.queries.mark_job_as_cancelled(job_id)

        assert await both(watcher, job_id, end) == "canceled"
        assert watcher.ignored_notifications == 4
