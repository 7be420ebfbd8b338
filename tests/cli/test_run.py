"""`run` as a process: its log, its signals, its own server."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import psycopg
import pytest

from tests.cli import app_for_tests
from tests.cli.command import Command, Invoke

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> None:
    """The module `app` in the current directory."""
    shutil.copy(app_for_tests.__file__, tmp_path / "app.py")


def queue(dsn: str) -> list[tuple[str, str, int]]:
    """Entrypoint, status and attempts of each job in the table."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT entrypoint, status::text, attempts FROM pgqueuer ORDER BY id"
        ).fetchall()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_drains(
    command: Command,
    invoke: Invoke,
    installed_dsn: str,
    number: signal.Signals,
    backend: str,
) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "wait", *place).code == 0
    args = ("--backend", backend, "--max-concurrent-jobs", "1", *place)
    worker = command.start("run", "app:manager", *args)
    worker.until("started")
    assert invoke("enqueue", "say", *place).code == 0
    worker.signal(number, group=True)
    worker.until_error("asked to stop")
    worker.end_input()
    result = worker.end()
    assert (result.code, result.out.splitlines()[-2:]) == (0, ["ended", "closing"])
    log = result.err.splitlines()
    assert "INFO    pgq_trio.cli: app:manager runs" in log[0]
    assert "asked to stop" in result.err
    assert log[-1].endswith("app:manager has ended")
    assert queue(installed_dsn) == [("say", "queued", 0)]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_second_signal_cancels(
    command: Command, invoke: Invoke, installed_dsn: str, backend: str
) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "wait", *place).code == 0
    worker = command.start("run", "app:manager", "--backend", backend, *place)
    worker.until("started")
    worker.signal(signal.SIGINT)
    worker.until_error("asked to stop")
    worker.signal(signal.SIGTERM)
    result = worker.end()
    assert (result.code, result.out.splitlines()[-2:]) == (0, ["cancelled", "closing"])
    assert queue(installed_dsn) == [("wait", "queued", 0)]


def test_the_grace_period_ends(command: Command, invoke: Invoke, installed_dsn: str) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "wait", *place).code == 0
    worker = command.start("run", "app:manager", "--grace-period", "0.1", *place)
    worker.until("started")
    worker.signal(signal.SIGTERM)
    assert worker.end().code == 0
    assert queue(installed_dsn) == [("wait", "queued", 0)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_it_runs_ends_it(
    command: Command, number: signal.Signals, code: int
) -> None:
    Path("slow.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "import anyio\n"
        "@asynccontextmanager\n"
        "async def factory():\n"
        "    print('opening', flush=True)\n"
        "    await anyio.sleep_forever()\n"
        "    yield\n"
    )
    worker = command.start("run", "slow:factory")
    worker.until("opening")
    worker.signal(number)
    result = worker.end()
    assert (result.code, result.err) == (code, "")


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_server_of_its_own(
    command: Command, invoke: Invoke, tmp_path: Path, backend: str
) -> None:
    assert invoke("install", "--embedded").code == 0
    assert (tmp_path / ".pgq-trio" / "data" / "PG_VERSION").exists()
    worker = command.start("run", "app:manager", "--embedded", "--backend", backend)
    worker.until("opened")
    # The worker's server is shared by a second program.
    result = invoke("--embedded", "enqueue", "say", "--payload", "hello")
    assert (result.code, result.err) == (0, "")
    worker.until("said hello")
    worker.signal(signal.SIGINT, group=True)
    assert worker.end().code == 0
    assert not (tmp_path / ".pgq-trio" / "data" / "postmaster.pid").exists()
