"""Defect 13: a wait for a job that is held, truncated or unknown ends, and says how."""

from __future__ import annotations

import anyio
import anyio.to_thread
import psycopg
import pytest

from pgq_trio import CompletionWatcher, Job
from pgq_trio.errors import UnknownJob
from tests.worker.tools import SOON, Place, drain


async def test_defect_13_held(place: Place) -> None:
    async with place.open() as pgq, CompletionWatcher(pgq.queries) as watcher:

        @pgq.entrypoint("it", on_failure="hold")
        async def handler(job: Job) -> None:
            raise ValueError("it will not work today")

        (job_id,) = await pgq.queries.enqueue("it")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, pgq)
            with anyio.fail_after(SOON):
                assert await watcher.wait_for(job_id) == "failed"
        with anyio.fail_after(SOON):
            assert await pgq.queries.wait_for(job_id) == "failed"


async def test_defect_13_truncated(database: Place) -> None:
    assert isinstance(database.target, str)
    target = database.target

    def truncate() -> None:
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("TRUNCATE pgqueuer")

    async with database.open() as pgq, CompletionWatcher(pgq.queries) as watcher:
        ids = await pgq.queries.enqueue(["it"] * 3)
        learned: list[str] = []

        async def wait(job_id: int) -> None:
            learned.append(await watcher.wait_for(job_id))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                for job_id in ids:
                    tasks.start_soon(wait, job_id)
                await anyio.to_thread.run_sync(truncate)
        assert learned == ["deleted"] * 3


async def test_defect_13_unknown(place: Place) -> None:
    async with place.open() as pgq, CompletionWatcher(pgq.queries) as watcher:
        for wait_for in (watcher.wait_for, pgq.queries.wait_for):
            with anyio.fail_after(SOON), pytest.raises(UnknownJob, match="there never was such a"):
                await wait_for(987_654)
