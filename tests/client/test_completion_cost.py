"""What waiting for jobs costs: one LISTEN, one statement a look, nothing while none waits."""

from __future__ import annotations

import anyio
import pytest

from pgq_trio import CompletionWatcher, PsycopgDriver, Queries, Settings
from pgq_trio.client import watching
from pgq_trio.model.wire import JobsEnded, WorkerListens, outcomes_wanted_event, parse_event
from pgq_trio.postgres import connect
from pgq_trio.testing import UnreliableDriver
from pgq_trio.types import JobId, JobStatus
from tests.client.tools import NEVER, heard, looked, with_outcomes
from tests.worker.tools import SOON, Place, running, until


class TestCost:
    async def test_many_waiters_cost_one_statement_for_each_look(self, place: Place) -> None:
        learned: list[JobStatus] = []
        async with place.driver() as driver:
            watched = UnreliableDriver(driver)
            queries = Queries(watched)
            async with (
                CompletionWatcher(queries, refresh_interval=NEVER) as watcher,
                anyio.create_task_group() as tasks,
            ):
                ids = await queries.enqueue(["it"] * 10_000)

                async def wait(job_id: JobId) -> None:
                    learned.append(await watcher.wait_for(job_id))

                for job_id in ids:
                    tasks.start_soon(wait, job_id)
                await looked(watcher, len(ids))
                await queries.clear_queue()
                await driver.backend(Settings()).notifier.notify(
                    "work", ['{"type": "table_changed_event", "operation": "delete"}']
                )
            assert learned == ["deleted"] * 10_000
        # At once, three early ones, one for the notification; and a slow machine gets two more.
        assert watched.calls["job_status"] <= 7
        assert watched.calls["listen"] == 1
        assert watched.calls["notify"] == 1

    async def test_many_ids_go_in_chunks(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching, "MAX_IDS", 10)
        async with place.open() as pgq, CompletionWatcher(pgq.queries) as watcher:
            ids = await pgq.queries.enqueue(["it"] * 25)
            await pgq.queries.clear_queue()
            async with anyio.create_task_group() as tasks:
                for job_id in ids:
                    tasks.start_soon(watcher.wait_for, job_id)

    async def test_a_look_is_planned_for_the_rows_there_are(self, database: Place) -> None:
        """And not once, while the queue is empty, for the thousands that come at once later."""
        assert isinstance(database.target, str)
        async with await connect(database.target, autocommit=True) as connection:
            jobs = PsycopgDriver(connection).backend(Settings()).jobs
            for _ in range(12):
                assert await jobs.job_status([1]) == {}
            cursor = await connection.execute(
                "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
                " WHERE statement LIKE '%pgqueuer_log%'"
            )
            assert await cursor.fetchall() == [(0, 12)]

    async def test_nobody_waits(self, place: Place) -> None:
        """A worker says once that it listens, and nothing of its jobs."""
        events = []
        async with place.open() as pgq, pgq.queries.backend.notifier.listen("outcomes") as heard_of:
            with_outcomes(pgq).open()
            async with running(pgq):
                await pgq.queries.enqueue(["it"] * 10)

                async def empty() -> bool:
                    return await pgq.queries.queue_size() == []

                await until(empty)
            await pgq.queries.backend.notifier.notify("outcomes", ["the end"])
            while (payload := await heard_of.__anext__()) != "the end":
                events.append(parse_event(payload))
        assert events == [WorkerListens()]

    async def test_somebody_waits(self, place: Place) -> None:
        """Jobs that ended are told in events below the limit of NOTIFY, retries are not."""
        async with place.open() as pgq, pgq.queries.backend.notifier.listen("outcomes") as heard_of:
            with_outcomes(pgq).open()
            async with running(pgq):
                await pgq.queries.backend.notifier.notify("interest", [outcomes_wanted_event()])
                await heard(pgq)
                ids = await pgq.queries.enqueue(["it"] * 3000, [b"retry", *[None] * 2999])
                told: list[JobId] = []
                with anyio.fail_after(SOON):
                    while len(told) < len(ids):
                        payload = await heard_of.__anext__()
                        assert len(payload) < 8000
                        event = parse_event(payload)
                        if isinstance(event, JobsEnded):
                            told.extend(event.ids)
        assert sorted(told) == ids
