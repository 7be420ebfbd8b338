"""Rows whose times Python cannot hold, which anybody can write in SQL, are jobs like any."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from pgq_trio import Context, Job
from tests.worker.tools import Notes, Place, drain, outcome, running


@pytest.mark.parametrize("limit", [0, 2])
@pytest.mark.parametrize("time", ["-infinity", "infinity"])
async def test_such_jobs_run(database: Place, time: str, limit: int) -> None:
    assert isinstance(database.target, str)
    columns = ["created", "updated", "heartbeat"]
    if time == "-infinity":
        columns.append("execute_after")
    ran: Notes[int] = Notes()
    async with database.open() as pgq:

        @pgq.entrypoint("it", concurrency_limit=limit)
        async def handler(job: Job, ctx: Context) -> None:
            assert min(job.created, job.execute_after) < datetime.max.replace(tzinfo=UTC)
            ran.add(job.id)

        ids = await pgq.queries.enqueue(["it"] * (len(columns) + 1))
        with psycopg.connect(database.target) as connection:
            for job_id, column in zip(ids, columns, strict=False):
                connection.execute(
                    f"UPDATE pgqueuer SET {column} = %s WHERE id = %s".encode(), [time, job_id]
                )
        await drain(pgq)
        assert sorted(ran.entries) == ids
        assert {await outcome(pgq.queries, job_id) for job_id in ids} == {"successful"}


async def test_a_worker_outlives_a_job_that_is_never_due(database: Place) -> None:
    assert isinstance(database.target, str)
    ran: Notes[int] = Notes()
    async with database.open() as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            ran.add(job.id)

        await pgq.queries.enqueue("it")
        with psycopg.connect(database.target) as connection:
            connection.execute("UPDATE pgqueuer SET execute_after = 'infinity'")
        async with running(pgq):
            ids = await pgq.queries.enqueue("it")
            assert await ran.until(1) == ids
            ids += await pgq.queries.enqueue("it")
            assert await ran.until(2) == ids
