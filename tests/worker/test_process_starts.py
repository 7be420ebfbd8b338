"""How worker processes come to jobs: one start after another, none lost, no wait without end."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_process
import pytest

from pgq_trio import Context, Job, ProcessExecutor
from pgq_trio.errors import WorkerProcessDied
from pgq_trio.executors import EntrypointExecutorParameters, processes
from tests.model.records import job
from tests.worker import process_handlers as handlers
from tests.worker.tools import until

#: Starting an interpreter on a busy machine.
START = 30.0


class Jobs:
    """Jobs of one executor, which may run up to eight at once."""

    def __init__(self, handler: Callable[[Job], object], tmp_path: Path) -> None:
        parameters = EntrypointExecutorParameters(func=handler, timeout=600)
        self._executor = ProcessExecutor(parameters, max_workers=8)
        self._path = tmp_path
        self.scopes: list[anyio.CancelScope] = []

    async def run(self, name: str = "job") -> None:
        """Run one job in a scope of its own."""
        with anyio.CancelScope() as scope:
            self.scopes.append(scope)
            one = replace(job(), payload=str(self._path / name).encode())
            await self._executor.execute(one, Context(resources={}, cancellation=scope))

    async def process(self, name: str = "job") -> int:
        """Run a job; return the id of its process."""
        with anyio.fail_after(START * 2):
            await self.run(name)
        return int((self._path / name).read_text())

    def with_process(self) -> int:
        """How many have a process: their timeouts have begun."""
        return sum(scope.deadline < math.inf for scope in self.scopes)


Opened = Callable[[], None]


def on_start(monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
    """Call this whenever AnyIO begins to start a process."""
    really: Callable[..., Awaitable[Any]] = vars(anyio.to_process)["open_process"]

    async def open_process(*args: Any, **options: Any) -> Any:
        opened()
        return await really(*args, **options)

    monkeypatch.setattr(anyio.to_process, "open_process", open_process)


def run(main: Callable[[], Awaitable[None]], backend: str) -> None:
    """Run with an event loop, and so a pool of processes, of the test's own."""
    anyio.run(main, backend=backend)


def is_there(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_start_that_is_cancelled_is_not_lost(
    anyio_backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        starts = 0
        begun = anyio.Event()

        def opened() -> None:
            nonlocal starts
            starts += 1
            begun.set()

        on_start(monkeypatch, opened)
        jobs = Jobs(handlers.returns, tmp_path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jobs.run)
            await begun.wait()
            jobs.scopes[0].cancel()
        assert jobs.scopes[0].cancelled_caught
        await jobs.process()
        assert starts == 1

    run(main, anyio_backend_name)


def test_processes_start_one_after_another(
    anyio_backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        ready: list[int] = []
        jobs = Jobs(handlers.runs_while_it_is_there, tmp_path)
        on_start(monkeypatch, lambda: ready.append(jobs.with_process()))
        files = [tmp_path / name for name in "abc"]

        async def all_run() -> bool:
            return all(file.exists() for file in files)

        async with anyio.create_task_group() as tasks:
            for file in files:
                tasks.start_soon(jobs.run, file.name)
            await until(all_run, within=START)
            for file in files:
                file.unlink()
        assert ready == [0, 1, 2]

    run(main, anyio_backend_name)


def test_who_has_a_process_started_gets_it(anyio_backend_name: str, tmp_path: Path) -> None:
    """No other task ever sees it idle: one that took it would leave the job to start another."""

    async def main() -> None:
        jobs = Jobs(handlers.runs_while_it_is_there, tmp_path)
        file = tmp_path / "job"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jobs.run)
            with anyio.fail_after(START):
                while not file.exists():
                    await anyio.lowlevel.checkpoint()
                    assert not anyio.to_process._process_pool_idle_workers.get(())
            file.unlink()

    run(main, anyio_backend_name)


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    """A block that has to end while this process is stopped; it is killed where it would not."""
    os.kill(process_id, signal.SIGSTOP)
    guard = threading.Timer(START, os.kill, (process_id, signal.SIGKILL))
    guard.start()
    try:
        yield
        assert guard.is_alive(), "it was waited for"
    finally:
        guard.cancel()
        guard.join()


class TestOneThatDoesNotAnswer:
    """An idle process that has been stopped, as a debugger or a container's freezer does."""

    def test_another_one_is_started(
        self, anyio_backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            jobs = Jobs(handlers.returns, tmp_path)
            silent = await jobs.process()
            with stopped(silent), monkeypatch.context() as patch:
                patch.setattr(processes, "START_LIMIT", 1.0)
                patch.setattr(processes, "STARTS", 1)
                with pytest.raises(WorkerProcessDied, match="no answer within 1 s"):
                    await jobs.run()
            assert not is_there(silent)
            assert await jobs.process() != silent

        run(main, anyio_backend_name)

    def test_a_job_that_waits_for_it_can_be_cancelled(
        self, anyio_backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            jobs = Jobs(handlers.returns, tmp_path)
            silent = await jobs.process()
            with stopped(silent), monkeypatch.context() as patch:
                patch.setattr(processes, "START_LIMIT", 1.0)
                with anyio.move_on_after(0.1) as scope:
                    await jobs.run()
            assert scope.cancelled_caught
            assert not is_there(silent)
            # Nothing is held that others need.
            assert await jobs.process() != silent

        run(main, anyio_backend_name)
