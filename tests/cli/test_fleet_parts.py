"""The parts of a fleet, with commands that are no workers: restarts, deadlines, watched files."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from pgq_trio.cli.fleet import worker as worker_module
from pgq_trio.cli.fleet.child import is_lasting
from pgq_trio.cli.fleet.reload import snapshot, watch
from pgq_trio.cli.fleet.restarts import STABLE, Restarts, describe_end, is_clean, is_hopeless
from pgq_trio.cli.fleet.supervisor import Fleet
from pgq_trio.cli.fleet.worker import FleetOptions, Worker
from pgq_trio.cli.program import Failure
from pgq_trio.concurrency.errors import raise_as_itself
from pgq_trio.errors import ConnectionLost, RegistrationError, SchemaMissing, StoreError

#: Seconds for what should take far less.
LIMIT = 30.0


def options(
    *, processes: int = 1, restart_limit: int = 0, grace_period: float = 0.0
) -> FleetOptions:
    """Options whose delays nobody notices."""
    return FleetOptions(
        processes=processes,
        restart_limit=restart_limit,
        restart_delay=0.01,
        grace_period=grace_period,
        reload=False,
    )


def python(code: str) -> list[str]:
    """A command that runs some code."""
    return [sys.executable, "-I", "-S", "-c", code]


DEAF = python(
    "import os, pathlib, signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pathlib.Path(f'deaf-{os.getpid()}').touch()\n"
    "while True: time.sleep(1)\n"
)


@asynccontextmanager
async def _unwrapping() -> AsyncGenerator[None]:
    """Raise what is inside of groups of one, as the command does."""
    try:
        yield
    except ExceptionGroup as group:
        raise_as_itself(group)


async def until_deaf(count: int) -> None:
    """Wait until so many processes ignore SIGTERM."""
    with anyio.fail_after(LIMIT):
        while len([path async for path in anyio.Path().glob("deaf-*")]) < count:
            await anyio.sleep(0.01)


def test_failures_in_a_row_are_counted_and_delays_grow() -> None:
    restarts = Restarts(limit=3, delay=1)
    delays = [restarts.next(lived=0) for _ in range(4)]
    assert delays[3] is None
    bounds = [(0.5, 1), (1, 2), (2, 4)]
    for delay, (low, high) in zip(delays, bounds, strict=False):
        assert delay is not None
        assert low <= delay <= high
    delay = restarts.next(lived=STABLE)
    assert restarts.failures == 1
    assert delay is not None
    assert delay <= 1


def test_what_an_exit_code_means() -> None:
    assert [code for code in (0, 1, 2, 78, -9, 143) if is_hopeless(code)] == [2, 78]
    codes = (0, 1, 130, 143, -signal.SIGTERM, -signal.SIGKILL, None)
    assert [code for code in codes if is_clean(code)] == [0, 130, 143, -signal.SIGTERM]
    assert describe_end(3) == "ended with exit code 3"
    assert describe_end(-9) == "was killed by SIGKILL"
    assert describe_end(-40) == "was killed by signal 40"


@pytest.mark.parametrize(
    ("exc", "runs", "lasting"),
    [
        (RegistrationError("x"), True, True),
        (SchemaMissing(), True, True),
        (ExceptionGroup("one", [SchemaMissing()]), True, True),
        (Failure("x"), False, True),
        (StoreError("password authentication failed"), False, True),
        (StoreError("no space left"), True, False),
        (StoreError("deadlock", retryable=True), False, False),
        (ConnectionLost("x"), False, False),
        (RuntimeError("x"), False, False),
    ],
)
def test_which_errors_last(exc: Exception, runs: bool, lasting: bool) -> None:
    assert is_lasting(exc, runs=runs) is lasting


async def test_who_does_not_end_in_time_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "KILL_MARGIN", 0.05)
    caplog.set_level(logging.INFO, "pgq_trio.cli")
    fleet = Fleet(DEAF, options(processes=2, grace_period=0.05))
    with anyio.fail_after(LIMIT), pytest.raises(Failure, match="2 of 2 processes had to be kil"):
        async with _unwrapping(), anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.run)
            await until_deaf(2)
            fleet.on_signal()
    assert "did not end within 0.1 s and is killed" in caplog.text


@pytest.mark.parametrize("asked", ["stop", "reload"])
async def test_who_is_asked_while_it_starts_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    worker = Worker(1, python("import time; time.sleep(600)"), 0, options(), pytest.fail)
    start = anyio.open_process
    starts = 0

    async def open_process(command: list[str], **rest: Any) -> Process:
        nonlocal starts
        starts += 1
        worker.stop() if starts == 2 or asked == "stop" else worker.reload()
        rest["pass_fds"] = ()
        return await start(command, **rest)

    monkeypatch.setattr(anyio, "open_process", open_process)
    with anyio.fail_after(LIMIT):
        await worker.keep()
    assert starts == (1 if asked == "stop" else 2)
    assert not worker.was_killed
    assert not worker.failed


async def test_cancellation_kills() -> None:
    fleet = Fleet(DEAF, options())
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.run)
            await until_deaf(1)
            tasks.cancel_scope.cancel()


async def test_a_program_that_cannot_be_started() -> None:
    fleet = Fleet(["/no/such/program"], options(restart_limit=2))
    with anyio.fail_after(LIMIT), pytest.raises(Failure, match=r"cannot be started: .* failure 3"):
        async with _unwrapping():
            await fleet.run()


async def test_a_signal_during_the_delay_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "pgq_trio.cli")
    slow = FleetOptions(
        processes=1, restart_limit=1, restart_delay=3600, grace_period=1, reload=False
    )
    fleet = Fleet(python("raise SystemExit(1)"), slow)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.run)
            while "restart 1 of 1" not in caplog.text:
                await anyio.sleep(0.01)
            fleet.on_signal()


async def test_changes_of_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("x = 1\n")
    (tmp_path / "gone.py").touch()
    told: list[list[str]] = []
    changed = anyio.Event()

    def on_change(paths: Sequence[Path]) -> None:
        told.append([path.name for path in paths])
        changed.set()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            await tasks.start(watch, [tmp_path], on_change)
            (tmp_path / "old.py").write_text("x = 22\n")
            (tmp_path / "gone.py").unlink()
            (tmp_path / "data.txt").touch()
            await changed.wait()
            tasks.cancel_scope.cancel()
    assert sorted({name for names in told for name in names}) == ["gone.py", "old.py"]


def test_files_that_nobody_edits_are_left_out(tmp_path: Path) -> None:
    for name in ("a/b/c.py", ".git/x.py", "venv/pyvenv.cfg", "venv/x.py", "a/__pycache__/x.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    assert [path.relative_to(tmp_path) for path in snapshot([tmp_path])] == [Path("a/b/c.py")]


#: Prints what it finds as somebody who may not search a directory; root may search every one.
LOOK = """
import os, sys
from pathlib import Path
from pgq_trio.cli.fleet.reload import snapshot
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
assert not os.access("closed", os.X_OK)
print(*sorted(map(str, snapshot([Path(".")]))))
"""


def test_what_we_may_not_look_into_is_left_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name in ("closed/x.py", "listed/inner/x.py", "open.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "closed").chmod(0)
    (tmp_path / "listed").chmod(0o444)
    for name in ("loop.py", "loop"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "up").symlink_to(tmp_path)
    try:
        found = subprocess.run(
            [sys.executable, "-P", "-c", LOOK],
            cwd=tmp_path,
            # As somebody else it may not write where coverage is measured.
            env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (tmp_path / "closed").chmod(0o755)
        (tmp_path / "listed").chmod(0o755)
    assert found.stderr == ""
    assert found.stdout.split() == ["open.py"]


def test_a_directory_that_is_gone_has_no_files(tmp_path: Path) -> None:
    assert snapshot([tmp_path / "gone"]) == {}
