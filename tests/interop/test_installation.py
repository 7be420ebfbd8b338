"""Tables that one package installs or upgrades, in the hands of the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator

import pytest
from pgqueuer.domain.settings import db_settings
from pgqueuer.qm import QueueManager as TheirManager
from psycopg.conninfo import conninfo_to_dict

from pgq_trio import Job, PgQueuer, PsycopgDriver, Queries, RetryRequested
from pgq_trio.postgres import open_pool
from tests.interop.peer import open_peer
from tests.interop.sides import Book, Ours, Pair, Theirs
from tests.schema import pgqueuers
from tests.schema.test_catalog import LEFT_OUT
from tests.worker.tools import running

#: PgQueuer's names of what `pgq verify` looks for.
PRESENT = "All required PgQueuer database objects are present.\n"


def pgq(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run PgQueuer's own command on a database."""
    info = conninfo_to_dict(dsn)
    place = {
        name: str(info[key])
        for name, key in {
            "PGHOST": "host",
            "PGPORT": "port",
            "PGUSER": "user",
            "PGDATABASE": "dbname",
        }.items()
        if key in info
    }
    return subprocess.run(
        [sys.executable, "-m", "pgqueuer", *arguments],
        env=os.environ | place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def objects(statements: str) -> set[str]:
    """What a plan of PgQueuer's creates."""
    return set(re.findall(r"^CREATE (?:OR REPLACE )?\w+ (\w+)", statements, re.MULTILINE))


class TestTheirCommand:
    def test_verify(self, shared_dsn: str) -> None:
        assert pgq(shared_dsn, "verify", "--expect", "present").stdout == PRESENT

    def test_the_plan_on_our_installation_is_what_we_leave_out(self, installed_dsn: str) -> None:
        planned = pgq(installed_dsn, "upgrade", "--plan")
        assert planned.returncode == 0, planned.stderr
        # Their trigger function, which knows more operations than our trigger has.
        assert objects(planned.stdout) == LEFT_OUT | {"fn_pgqueuer_changed"}
        assert pgq(installed_dsn, "upgrade").returncode == 0
        again = pgq(installed_dsn, "upgrade", "--plan")
        assert (again.stdout, again.returncode) == ("", 0)

    def test_it_sees_that_we_have_installed(self, installed_dsn: str) -> None:
        refused = pgq(installed_dsn, "install")
        assert refused.returncode == 1
        assert "already installed" in refused.stderr

    def test_it_uninstalls_ours(self, installed_dsn: str) -> None:
        assert pgq(installed_dsn, "uninstall").returncode == 0
        assert pgq(installed_dsn, "verify", "--expect", "absent").returncode == 0
        left = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert pgqueuers.fetch(installed_dsn, left) == []


@pytest.mark.parametrize("direction", ["ours-first"])
class TestChecks:
    async def test_both_are_content(self, pair: Pair) -> None:
        assert await pair.ours.queries.verify() == []
        peer = pair.theirs.peer
        manager = await peer.make(lambda: TheirManager(peer.queries))
        await peer.run(manager.verify_structure())

    async def test_we_uninstall_theirs(self, pair: Pair) -> None:
        await pair.ours.queries.uninstall()
        assert not await pair.theirs.peer.run(pair.theirs.peer.queries.schema_is_installed())


@pytest.fixture
async def upgraded(installed_dsn: str) -> AsyncGenerator[Pair]:
    """Our installation, brought up to date by PgQueuer."""
    async with open_pool(installed_dsn) as pool, open_peer(installed_dsn) as peer:
        plan = await peer.run(peer.queries.apply_upgrade())
        assert plan.statements
        ours, theirs = (
            Ours(installed_dsn, Queries(PsycopgDriver(pool))),
            Theirs(installed_dsn, peer),
        )
        yield Pair(ours, theirs, ours, theirs)


class TestUpgradedByThem:
    # Workers poll every 30 s, longer than these tests wait: it is notifications that wake them.

    async def test_we_are_content(self, upgraded: Pair) -> None:
        assert await upgraded.ours.queries.verify() == []

    async def test_an_idle_worker_of_ours_is_woken(self, upgraded: Pair) -> None:
        held = await upgraded.theirs.enqueue(b"held")
        await upgraded.ours.run_one("raise", on_failure="hold")
        async with upgraded.ours.work() as worker:
            first = await upgraded.theirs.enqueue()
            await worker.jobs(1)
            await upgraded.quiet()
            second = await upgraded.ours.enqueue()
            await worker.jobs(2)
            await upgraded.quiet()
            await upgraded.ours.requeue(held)
            assert [job.id for job in await worker.jobs(3)] == [first, second, held]
        assert upgraded.empty()

    @pytest.mark.parametrize("worker_of", ["ours", "theirs"])
    async def test_a_retry_wakes_idle_workers(self, upgraded: Pair, worker_of: str) -> None:
        book = Book("wait")
        side = upgraded.ours if worker_of == "ours" else upgraded.theirs
        async with PgQueuer.open(upgraded.dsn) as app:

            @app.entrypoint("a")
            async def handler(job: Job) -> None:
                await book.play(job, ValueError())
                app.request_shutdown()
                raise RetryRequested

            async with running(app):
                job_id = await upgraded.theirs.enqueue()
                await book.seen.until(1)
                async with side.work() as worker:
                    await upgraded.quiet()
                    book.release()
                    [seen] = await worker.jobs(1)
        assert (seen.id, seen.attempts) == (job_id, 1)
        assert upgraded.ours.log(job_id) == ["queued", "picked", "queued", "picked", "successful"]
        assert upgraded.empty()


@pytest.fixture
def names_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PgQueuer reads its settings at the first use and keeps them; we read them at each use."""
    monkeypatch.setenv("PGQUEUER_PREFIX", "pre_")
    monkeypatch.setenv("PGQUEUER_SCHEMA", "jobs")
    db_settings.cache_clear()
    yield
    monkeypatch.undo()
    db_settings.cache_clear()


@pytest.mark.parametrize("installer", ["ours", "theirs"])
@pytest.mark.usefixtures("names_from_the_environment")
async def test_prefix_and_schema_from_the_environment(dsn: str, installer: str) -> None:
    async with open_pool(dsn) as pool, open_peer(dsn) as peer:
        ours, theirs = Ours(dsn, Queries(PsycopgDriver(pool))), Theirs(dsn, peer)
        if installer == "ours":
            await ours.queries.install()
        else:
            await peer.run(peer.queries.install())
        assert await ours.queries.verify() == []
        for producer, consumer in ((ours, theirs), (theirs, ours)):
            async with consumer.work("wait") as worker:
                job_id = await producer.enqueue(b"p")
                assert [job.id for job in await worker.jobs(1)] == [job_id]
                await producer.cancel(job_id)  # over the channel, which has the prefix as well
                assert await worker.cancelled(1) == [job_id]
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'jobs' ORDER BY 1"
    assert pgqueuers.fetch(dsn, tables) == [
        ("pre_pgqueuer",),
        ("pre_pgqueuer_log",),
        ("pre_pgqueuer_schedules",),
        ("pre_pgqueuer_statistics",),
    ]
    assert pgqueuers.fetch(dsn, "SELECT status::text FROM jobs.pre_pgqueuer_log ORDER BY id") == [
        *[("queued",), ("picked",), ("canceled",)] * 2
    ]
