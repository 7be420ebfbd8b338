"""Defects 11 and 16: a job that kills its workers is held; any number of jobs is cancelled at once.

On PostgreSQL the workers are processes that a handler really ends.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from uuid import UUID

import anyio
import anyio.from_thread
import pytest

from pgq_trio import Job, ProcessExecutor, Queries, Settings
from pgq_trio.abc import ClaimRequest
from pgq_trio.model.events import JobEnded, JobHeld, JobStarted
from pgq_trio.postgres import connect
from pgq_trio.types import History
from tests.defects import killer
from tests.worker import process_handlers
from tests.worker.tools import (
    Notes,
    Place,
    Watcher,
    claim,
    drain,
    in_table,
    outcome,
    running,
    statuses,
    until,
)

#: Seconds for a program that starts, works and dies, on a busy machine.
PROGRAM = 30.0

# ---------------------------------------------------------------------------- 11


@pytest.mark.parametrize("history", ["full", "outcomes"])
async def test_defect_11_a_job_that_kills_its_worker_is_held_in_the_end(
    database: Place, anyio_backend_name: str, history: str
) -> None:
    command = [
        sys.executable, "-m", killer.__name__, str(database.target), anyio_backend_name, history,
        "3",
    ]  # fmt: skip
    async with database.open() as pgq:
        poison, *harmless = await pgq.queries.enqueue(
            ["poison", *["harmless"] * 5], priority=[1, 0, 0, 0, 0, 0]
        )
        codes: list[int] = []
        while not codes or codes[-1] == 99:
            assert len(codes) < 5
            with anyio.fail_after(PROGRAM):
                done = await anyio.run_process(
                    command, check=False, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
                )
            codes.append(done.returncode)
            await anyio.sleep(killer.LEASE + 0.1)  # the lease of the killed worker
        # Three runs ended without an outcome; the fourth worker held the job and lived.
        assert codes == [99, 99, 99, 0], done.stderr.decode()
        assert b"worker lost: the last 3 runs" in done.stderr
        assert [await outcome(pgq.queries, job_id) for job_id in harmless] == ["successful"] * 5
        (held,) = await pgq.queries.list_failed_jobs()
        assert (held.id, held.attempts) == (poison, 3)
        log = (await pgq.queries.queue_log(job_id=poison))[-1]
        assert log.traceback is not None
        assert (log.status, log.traceback.exception_type) == ("failed", "WorkerLost")
        # Requeued, it has all its runs again.
        await pgq.queries.requeue_jobs(poison)
        assert [job.attempts for job in await claim(pgq.queries.backend.jobs, ["poison"])] == [0]


async def test_defect_11_max_attempts_is_the_entrypoints(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Rescued once: one entrypoint allows no rescue, the other one does."""
    caplog.set_level(logging.ERROR, "pgq_trio.worker")
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq:

        @pgq.entrypoint("once", max_attempts=1)
        async def once(job: Job) -> None: ...

        @pgq.entrypoint("twice", max_attempts=2)
        async def twice(job: Job) -> None: ...

        once_id, twice_id, fresh = await pgq.queries.enqueue(["once", "twice", "later"])
        await claim(pgq.queries.backend.jobs, ["once", "twice"])  # by somebody who never comes back
        await anyio.sleep(0.15)
        await drain(pgq, heartbeat_timeout=0.1)
        assert await statuses(pgq.queries, once_id) == ["queued", "picked", "picked", "failed"]
        assert await outcome(pgq.queries, twice_id) == "successful"
        assert await outcome(pgq.queries, fresh) == "queued"
        (held,) = watcher.of(JobHeld)
        assert (held.job.id, held.error.lost_runs, held.error.max_attempts) == (once_id, 1, 1)
        assert [event.job.id for event in watcher.of(JobStarted)] == [twice_id]
        assert "'once' is held: worker lost: the last 1 runs" in caplog.text


async def test_defect_11_a_job_that_its_own_worker_rescues_goes_on(place: Place) -> None:
    """A worker whose heartbeat came late has lost nothing: the run is the same."""
    entered: Notes[int] = Notes()
    release = anyio.Event()
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq:

        @pgq.entrypoint("it", max_attempts=1)
        async def handler(job: Job) -> None:
            entered.add(job.id)
            await release.wait()

        (job_id,) = await pgq.queries.enqueue("it")
        async with running(pgq, heartbeat_timeout=3600):
            await entered.until(1)
            engine = pgq._core._engine
            assert engine is not None
            assert engine.worker is not None
            worker = engine.worker
            await anyio.sleep(0.1)
            rescued = await claim(
                pgq.queries.backend.jobs,
                ["it"],
                queue_manager_id=worker.queue_manager_id,
                heartbeat_timeout=0.05,
            )
            assert [job.id for job in rescued] == [job_id]
            worker._dispatcher.add(worker._leases.add(rescued), {job_id: 1})
            release.set()
            await watcher.until_all(lambda: bool(watcher.of(JobEnded)))
        assert watcher.of(JobHeld) == []
        assert await outcome(pgq.queries, job_id) == "successful"


#: What PgQueuer's claim does to a row and its log, fresh or stale alike; it counts no attempt.
CLAIMED_BY_PGQUEUER = """
    WITH claimed AS (
        UPDATE pgqueuer SET status = 'picked', queue_manager_id = gen_random_uuid(),
            updated = now(), heartbeat = now() - interval '1 hour'
        WHERE id = %s
        RETURNING id, status, entrypoint, priority
    )
    INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority)
    SELECT id, status, entrypoint, priority FROM claimed
"""


@pytest.mark.parametrize("history", ["full", "outcomes"])
async def test_defect_11_runs_that_pgqueuers_workers_lost_count(
    database: Place, history: History
) -> None:
    assert isinstance(database.target, str)
    async with (
        database.driver() as driver,
        await connect(database.target, autocommit=True) as connection,
    ):
        queries = Queries(driver, settings=Settings(history=history))
        (job_id,) = await Queries(driver).enqueue("it")  # logged as queued, as PgQueuer does
        for _ in range(3):
            await connection.execute(CLAIMED_BY_PGQUEUER, [job_id])
        request = ClaimRequest(
            queue_manager_id=UUID(int=1),
            limits={"it": 0},
            batch_size=1,
            limited_batch_size=1,
            heartbeat_timeout=30,
        )
        claimed = await queries.backend.jobs.claim(request)
        assert [job.attempts for job in claimed.jobs] == [1]
        assert claimed.lost_runs == {job_id: 3}


# ---------------------------------------------------------------------------- 16

QUEUED, RUNNING = 5000, 20


async def test_defect_16_thousands_at_once_twenty_of_them_running(
    place: Place, tmp_path: Path
) -> None:
    entered: Notes[int] = Notes()
    watcher = Watcher()
    async with place.open(observers=[watcher]) as pgq, place.open() as elsewhere:

        @pgq.entrypoint("async")
        async def on_loop(job: Job) -> None:
            entered.add(job.id)
            await anyio.sleep_forever()

        @pgq.entrypoint("thread")
        def in_thread(job: Job) -> None:
            anyio.from_thread.run_sync(entered.add, job.id)
            while True:
                anyio.from_thread.check_cancelled()
                threading.Event().wait(0.01)

        factory = partial(ProcessExecutor, max_workers=2)
        pgq.entrypoint("process", executor_factory=factory)(process_handlers.runs_for_ever)
        files = [tmp_path / f"process-{number}" for number in range(2)]
        names = ["async"] * 9 + ["thread"] * 9 + ["process"] * 2
        payloads = [b""] * 18 + [str(file).encode() for file in files]
        async with running(pgq, max_concurrent_jobs=RUNNING):
            ids = await elsewhere.queries.enqueue(names, payloads)
            await entered.until(18)

            async def processes_run() -> bool:
                return all(file.exists() for file in files)

            await until(processes_run, within=PROGRAM)
            ids += await elsewhere.queries.enqueue(["async"] * QUEUED)
            assert await elsewhere.queries.mark_job_as_cancelled(ids) == set(ids)
            assert await in_table(pgq.queries) == {}
            await watcher.until_all(lambda: len(watcher.of(JobEnded)) >= RUNNING)
            ended = {event.job.id: event.outcome for event in watcher.of(JobEnded)}
            assert ended == dict.fromkeys(ids[:RUNNING], "canceled")
        assert {status for _, status in await pgq.queries.job_status(ids)} == {"canceled"}
    assert len(entered.entries) == 18
