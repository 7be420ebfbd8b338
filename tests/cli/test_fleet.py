"""`run` with processes of its own: restarts, signals, orphans, and new code."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.cli import app_for_tests
from tests.cli.command import Command, Invoke, Running

BACKENDS = ["trio", "asyncio"]
QUICK = ("--restart-delay", "0.01")


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


def outcomes(dsn: str) -> list[tuple[str, str]]:
    """Entrypoint and outcome of each job that has ended."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT entrypoint, status::text FROM pgqueuer_log "
            "WHERE status IN ('successful', 'exception', 'canceled') ORDER BY job_id"
        ).fetchall()


def number_in(line: str) -> int:
    """The process id in a line of the log, or of a handler."""
    found = re.search(r"(?:pid|in) (\d+)", line)
    assert found is not None, line
    return int(found[1])


def until_started(fleet: Running, count: int) -> list[int]:
    """Read the log until so many processes have been started; return their ids."""
    return [number_in(fleet.until_error(") started")) for _ in range(count)]


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_process_is_started_again_and_its_job_is_not_lost(
    command: Command, invoke: Invoke, installed_dsn: str, backend: str
) -> None:
    place = ("--dsn", installed_dsn)
    for _ in range(4):  # of which each process runs one, and has claimed one ahead
        assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start(
        *("run", "app:manager", "--processes", "2", "--max-concurrent-jobs", "1"),
        *("--heartbeat-timeout", "2", "--backend", backend, *QUICK, *place),
    )
    pids = until_started(fleet, 2)
    first, second = (number_in(fleet.until("started in")) for _ in range(2))
    assert {first, second} == {*pids}
    os.kill(first, signal.SIGKILL)
    line = fleet.until_error("was killed by SIGKILL")
    assert f"(pid {first}) was killed by SIGKILL; restart 1 of 5" in line
    (new,) = until_started(fleet, 1)
    assert number_in(fleet.until("started in")) == new
    fleet.end_input()
    for _ in range(4):
        fleet.until("ended")
    assert invoke("enqueue", "say", "--payload", "on", *place).code == 0
    fleet.until("said on")
    fleet.signal(signal.SIGTERM)
    assert fleet.end().code == 0
    assert queue(installed_dsn) == []
    assert outcomes(installed_dsn) == [("wait", "successful")] * 4 + [("say", "successful")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crash_loop_ends(command: Command, backend: str) -> None:
    result = command.run(
        *("run", "app:raises", "--processes", "1", "--restart-limit", "2"),
        *("--backend", backend, *QUICK),
    )
    assert result.code == 1
    assert result.err.count(") started") == 3
    assert result.err.count("Error: RuntimeError: no luck") == 3
    last = result.err.splitlines()[-1]
    assert re.fullmatch(
        r"Error: worker 1 \(pid \d+\) ended with exit code 1: failure 3 in a row, "
        r"and --restart-limit is 2",
        last,
    )


def test_when_one_gives_up_the_others_drain(
    command: Command, invoke: Invoke, installed_dsn: str
) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start("run", "app:manager", "--processes", "2", "--restart-limit", "0", *place)
    pids = until_started(fleet, 2)
    busy = number_in(fleet.until("started in"))
    (idle,) = {*pids} - {busy}
    os.kill(idle, signal.SIGKILL)
    fleet.until_error("asked to stop")
    fleet.end_input()
    result = fleet.end()
    assert result.code == 1
    assert f"(pid {idle}) was killed by SIGKILL: failure 1" in result.err.splitlines()[-1]
    assert outcomes(installed_dsn) == [("wait", "successful")]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("app:empty", "nothing to run"),
        ("app:returns_none", "returned None"),
        ("app:nothing", "has no 'nothing'"),
        ("nowhere:x", "there is no module 'nowhere'"),
        ("broken:x", "importing broken failed: SyntaxError"),
    ],
)
def test_what_lasts_is_not_tried_again(command: Command, factory: str, reason: str) -> None:
    Path("broken.py").write_text("def x(:\n")
    result = command.run("run", factory, "--restart-on-failure", *QUICK)
    assert result.code == 1
    assert result.err.count(") started") == 1
    assert reason in result.err
    assert "which no restart mends" in result.err.splitlines()[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_are_missing_tables_nor_an_unknown_database(
    command: Command, dsn: str, backend: str
) -> None:
    for place, reason in [
        (dsn, "`pgq-trio install`"),
        (f"{dsn} dbname=no_such_database", "no_such_database"),
    ]:
        result = command.run(
            *("run", "app:manager", "--restart-on-failure", *QUICK),
            *("--dsn", place, "--backend", backend),
        )
        assert (result.code, result.err.count(") started")) == (1, 1), result.err
        assert reason in result.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_restart_on_failure(command: Command, backend: str) -> None:
    result = command.run(
        *("run", "app:fails_once", "--restart-on-failure", "--mode", "drain"),
        *("--backend", backend, *QUICK),
    )
    assert result.code == 0
    assert "Error: RuntimeError: not yet" in result.err
    assert "restart 1 of 5" in result.err
    assert result.err.splitlines()[-1].endswith("ended with exit code 0")


@pytest.mark.parametrize(
    ("backend", "number"), [("trio", signal.SIGINT), ("asyncio", signal.SIGTERM)]
)
def test_the_first_signal_drains(
    command: Command, invoke: Invoke, installed_dsn: str, number: signal.Signals, backend: str
) -> None:
    place = ("--dsn", installed_dsn)
    for _ in range(4):  # of which each process runs one, and has claimed one ahead
        assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start(
        *("run", "app:manager", "--processes", "2", "--max-concurrent-jobs", "1"),
        *("--backend", backend, *place),
    )
    pids = [number_in(fleet.until("started in")) for _ in range(2)]
    assert invoke("enqueue", "say", *place).code == 0
    fleet.signal(number, group=True)  # as a terminal does
    for _ in range(3):  # parent and children
        fleet.until_error("asked to stop")
    fleet.end_input()
    result = fleet.end()
    assert (result.code, result.out.count("ended"), result.out.count("cancelled")) == (0, 2, 0)
    assert queue(installed_dsn) == [("wait", "queued", 0)] * 2 + [("say", "queued", 0)]
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_signal_cancels(
    command: Command, invoke: Invoke, installed_dsn: str, backend: str
) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start("run", "app:manager", "--processes", "2", "--backend", backend, *place)
    pids = until_started(fleet, 2)
    busy = number_in(fleet.until("started in"))
    fleet.signal(signal.SIGINT, group=True)
    fleet.until_error(f"[{busy}] pgq_trio.cli: asked to stop")
    # A service manager may signal each process itself; only the parent decides what is a second.
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    fleet.signal(signal.SIGINT, group=True)
    result = fleet.end()
    assert (result.code, result.out.count("cancelled")) == (0, 1)
    assert queue(installed_dsn) == [("wait", "queued", 0)]


def test_the_third_signal_kills(command: Command, invoke: Invoke, installed_dsn: str) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "block", *place).code == 0
    fleet = command.start("run", "app:manager", "--processes", "2", *place)
    pids = until_started(fleet, 2)
    blocked = number_in(fleet.until("blocks in"))
    (idle,) = {*pids} - {blocked}
    fleet.signal(signal.SIGTERM)
    fleet.until_error(f"(pid {idle}) ")  # its end
    for text in ("asked again", "for the third time"):
        fleet.signal(signal.SIGTERM)
        fleet.until_error(text)
    result = fleet.end()
    assert result.code == 1
    assert f"(pid {blocked}) was killed by SIGKILL" in result.err
    assert "1 of 2 processes had to be killed" in result.err.splitlines()[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_service_manager_that_signals_every_process(
    command: Command, invoke: Invoke, installed_dsn: str, backend: str
) -> None:
    place = ("--dsn", installed_dsn)
    assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start("run", "app:manager", "--processes", "1", "--backend", backend, *place)
    child = number_in(fleet.until("started in"))
    os.kill(child, signal.SIGTERM)
    fleet.until_error(f"[{child}] pgq_trio.cli: asked to stop")
    fleet.signal(signal.SIGTERM)
    fleet.until_error("asked to stop")
    os.kill(child, signal.SIGTERM)
    fleet.end_input()
    result = fleet.end()
    assert (result.code, result.out.splitlines()[-2:]) == (0, ["ended", "closing"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_orphans_drain(command: Command, invoke: Invoke, installed_dsn: str, backend: str) -> None:
    place = ("--dsn", installed_dsn)
    for _ in range(4):
        assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start(
        *("run", "app:manager", "--processes", "2", "--max-concurrent-jobs", "1"),
        *("--backend", backend, *place),
    )
    pids = [number_in(fleet.until("started in")) for _ in range(2)]
    fleet.signal(signal.SIGKILL)
    for _ in pids:
        fleet.until_error("asked to stop")
    fleet.end_input()
    result = fleet.end()  # whose output ends with the last process that holds it
    assert result.code == -signal.SIGKILL
    assert result.err.count("the parent of this process is gone") == 2
    assert result.out.count("ended") == 2
    assert queue(installed_dsn) == [("wait", "queued", 0)] * 2
    assert outcomes(installed_dsn) == [("wait", "successful")] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_drain_mode(command: Command, invoke: Invoke, installed_dsn: str, backend: str) -> None:
    place = ("--dsn", installed_dsn)
    for name in "abcdef":
        assert invoke("enqueue", "say", "--payload", name, *place).code == 0
    result = command.run(
        *("run", "app:with_arguments", "--processes", "2", "--mode", "drain"),
        *("--backend", backend, *place, "--", "--loud", "x"),
    )
    assert result.code == 0
    lines = result.out.splitlines()
    assert sorted(line for line in lines if "said" in line) == [f"said {n}" for n in "abcdef"]
    assert lines.count("arguments ['--loud', 'x']") == 2
    assert queue(installed_dsn) == []


def test_files_of_the_user_hide_no_library() -> None:
    Path("psycopg.py").write_text("raise RuntimeError('the wrong psycopg')\n")
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pgq_trio", "run", "app:function"),
            *("--restart-on-failure", "--restart-limit", "0", "--mode", "drain"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "wrong psycopg" in done.stderr) == (0, False), done.stderr


def test_options_reach_the_processes(command: Command, invoke: Invoke, installed_dsn: str) -> None:
    place = ("--dsn", installed_dsn, "--prefix", "f_")
    assert invoke("install", *place).code == 0
    assert invoke("enqueue", "wait", *place).code == 0
    assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start(
        *("run", "app:manager", "--processes", "1", "--max-concurrent-tasks", "1"),
        *("--grace-period", "0.1", "--log-level", "WARNING", *place),
    )
    fleet.until("started in")
    fleet.signal(signal.SIGTERM)
    result = fleet.end()
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == "opened with prefix 'f_'"
    assert result.out.count("started in") == result.out.count("cancelled") == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_server_for_all(command: Command, invoke: Invoke, tmp_path: Path, backend: str) -> None:
    assert invoke("install", "--embedded").code == 0
    assert invoke("enqueue", "say", "--payload", "hello", "--embedded").code == 0
    fleet = command.start(
        "run", "app:manager", "--processes", "2", "--embedded", "--backend", backend
    )
    for _ in range(2):
        fleet.until_error("app:manager runs")
    fleet.until("said hello")
    fleet.signal(signal.SIGINT, group=True)
    result = fleet.end()
    assert (result.code, result.err.count("ended with exit code 0")) == (0, 2)
    assert not (tmp_path / ".pgq-trio" / "data" / "postmaster.pid").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_reload(command: Command, invoke: Invoke, installed_dsn: str, backend: str) -> None:
    place = ("--dsn", installed_dsn)
    good = Path("app.py").read_text()
    fleet = command.start("run", "app:manager", "--reload", "--backend", backend, *place)
    fleet.until("opened")

    Path("app.py").write_text(good.replace('f"said', 'f"sang'))
    assert "app.py changed" in fleet.until_error("changed")
    fleet.until("opened")
    assert invoke("enqueue", "say", "--payload", "la", *place).code == 0
    assert fleet.until("said", "sang") == "sang la\n"

    Path("app.py").write_text(good + "\ndef broken(:\n")
    fleet.until_error("Error: importing app failed: SyntaxError")
    fleet.until_error("waiting for the code to change")

    Path("app.py").write_text(good)
    fleet.until("opened")
    assert invoke("enqueue", "say", "--payload", "la", *place).code == 0
    assert fleet.until("said", "sang") == "said la\n"
    fleet.signal(signal.SIGINT, group=True)
    assert fleet.end().code == 0


def test_reload_waits_for_the_first_good_code(command: Command) -> None:
    Path("app.py").write_text("def function(:\n")
    fleet = command.start("run", "app:function", "--reload", "--mode", "drain")
    fleet.until_error("SyntaxError")
    fleet.until_error("waiting for the code to change")
    fleet.signal(signal.SIGINT)
    assert fleet.end().code == 0


def test_reload_cancels_what_does_not_end(
    command: Command, invoke: Invoke, installed_dsn: str
) -> None:
    place = ("--dsn", installed_dsn)
    extra = Path("elsewhere")
    extra.mkdir()
    assert invoke("enqueue", "wait", *place).code == 0
    fleet = command.start(
        "run", "app:manager", "--reload", "--reload-dir", str(extra.absolute()), *place
    )
    first = number_in(fleet.until("started in"))
    (extra / "new.py").touch()
    assert number_in(fleet.until("cancelled", "started in") + fleet.until("started in")) != first
    fleet.end_input()
    fleet.until("ended")
    fleet.signal(signal.SIGINT)
    assert fleet.end().code == 0
    assert outcomes(installed_dsn) == [("wait", "successful")]


@pytest.mark.parametrize(
    "args",
    [
        ("--processes", "0"),
        ("--restart-delay", "-1"),
        ("--restart-limit", "x"),
        ("--reload-dir", "."),
        ("--reload", "--reload-dir", "no-such-directory"),
        ("--processes", "2", "--grace-period", "nan"),
    ],
)
def test_wrong_options(invoke: Invoke, args: tuple[str, ...]) -> None:
    result = invoke("run", "app:function", *args)
    assert (result.code, result.out) == (2, "")
    assert args[-2].strip("-").replace("-", "_") in result.error.replace("-", "_")
