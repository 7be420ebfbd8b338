"""Handlers in worker processes: what they lead to, and that nothing keeps one alive."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from pgq_trio import (
    AbstractEntrypointExecutor,
    Context,
    InMemoryDriver,
    Job,
    PgQueuer,
    ProcessExecutor,
)
from pgq_trio.executors import EntrypointExecutorParameters
from pgq_trio.models import Log
from tests.model.records import job
from tests.worker import process_handlers as handlers
from tests.worker.tools import (
    Notes,
    Place,
    in_table,
    outcome,
    queued_again,
    running,
    statuses,
    until,
)

#: Starting an interpreter on a busy machine.
START = 30.0


@pytest.fixture
def paths(tmp_path: Path) -> Callable[[int], list[Path]]:
    """A function that gives paths of files that are not there."""
    return lambda count: [tmp_path / f"job-{number}" for number in range(count)]


def payloads(paths: list[Path]) -> list[bytes]:
    return [str(path).encode() for path in paths]


async def run_dry(pgq: PgQueuer) -> None:
    with anyio.fail_after(START):
        await pgq.run(mode="drain", handle_signals=False)


async def have_begun(paths: list[Path]) -> list[int]:
    """Wait until these handlers run; return the ids of their processes."""

    async def all_there() -> bool:
        return all(path.exists() for path in paths)

    await until(all_there, within=START)
    return [int(path.read_text()) for path in paths]


async def is_gone(process_id: int) -> None:
    """Wait until a process is gone."""

    async def gone() -> bool:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        return False

    await until(gone)


async def last_log(pgq: PgQueuer, job_id: int) -> Log:
    return (await pgq.queries.queue_log(job_id=job_id))[-1]


async def test_it_runs_elsewhere_and_nothing_it_prints_or_returns_harms(
    place: Place, paths: Callable[[int], list[Path]]
) -> None:
    files = paths(3)
    async with place.open() as pgq:
        pgq.entrypoint("it", executor_factory=ProcessExecutor)(handlers.returns)
        ids = await pgq.queries.enqueue(["it"] * 3, payloads(files))
        await run_dry(pgq)
        assert [await outcome(pgq.queries, job_id) for job_id in ids] == ["successful"] * 3
    assert os.getpid() not in [int(path.read_text()) for path in files]


FAILURES: dict[str, tuple[Callable[[Job], object], str, str]] = {
    "exits": (handlers.exits, "WorkerProcessDied", "that ran the handler exits died"),
    "killed": (handlers.is_killed, "WorkerProcessDied", "killed (out of memory?)"),
    "raises": (handlers.raises, "ValueError", "in the process"),
    "unsendable": (handlers.raises_unsendable, "RuntimeError", "Unsendable: 1 and 2"),
    "local": (handlers.raises_local, "RuntimeError", "LocalError: of this call"),
    "sys.exit": (handlers.calls_exit, "RuntimeError", "calls_exit raised SystemExit: 5"),
    "coroutine": (handlers.forgets_to_await, "TypeError", "`def` and returned a coroutine"),
}


async def test_its_failure_is_the_jobs_and_the_pool_goes_on(
    place: Place, paths: Callable[[int], list[Path]]
) -> None:
    async with place.open() as pgq:
        factory = functools.partial(ProcessExecutor, max_workers=1)
        for name, (handler, _, _) in FAILURES.items():
            pgq.entrypoint(name, executor_factory=factory)(handler)
        pgq.entrypoint("good", executor_factory=factory)(handlers.returns)
        ids = await pgq.queries.enqueue(list(FAILURES))
        good = await pgq.queries.enqueue(["good"] * 2, payloads(paths(2)))
        await run_dry(pgq)
        assert [await outcome(pgq.queries, job_id) for job_id in good] == ["successful"] * 2
        for job_id, (handler, kind, message) in zip(ids, FAILURES.values(), strict=True):
            log = await last_log(pgq, job_id)
            assert log.status == "exception"
            assert log.traceback is not None
            assert log.traceback.exception_type == kind
            assert message in log.traceback.exception_message
            if kind != "WorkerProcessDied":
                assert "in the worker process" in log.traceback.traceback
                assert handler.__name__ in log.traceback.traceback


async def test_a_retry_and_a_group_of_retries_come_across(place: Place) -> None:
    async with place.open() as pgq:
        pgq.entrypoint("it", executor_factory=ProcessExecutor)(handlers.retries_twice)
        (job_id,) = await pgq.queries.enqueue("it")
        async with running(pgq):

            async def done() -> bool:
                return await outcome(pgq.queries, job_id) == "successful"

            await until(done, within=START)
        log = await pgq.queries.queue_log(job_id=job_id)
        reasons = [x.traceback.additional_context for x in log if x.traceback is not None]
        assert [reason and reason["reason"] for reason in reasons] == ["once", "twice"]


async def test_a_death_is_noticed_although_a_fork_lives_on(
    paths: Callable[[int], list[Path]],
) -> None:
    [file] = paths(1)
    async with Place(InMemoryDriver()).open() as pgq:
        pgq.entrypoint("it", executor_factory=ProcessExecutor)(handlers.forks_and_is_killed)
        [job_id] = await pgq.queries.enqueue("it", payloads([file])[0])
        try:
            await run_dry(pgq)
            os.kill(fork := int(file.read_text()), 0)  # it is there
        finally:
            file.unlink(missing_ok=True)
        log = await last_log(pgq, job_id)
        assert log.traceback is not None
        assert log.traceback.exception_type == "WorkerProcessDied"
    await is_gone(fork)


async def test_signals_for_the_whole_program_do_not_end_it(place: Place) -> None:
    async with place.open() as pgq:
        pgq.entrypoint("it", executor_factory=ProcessExecutor)(handlers.ignores_signals)
        (job_id,) = await pgq.queries.enqueue("it")
        await run_dry(pgq)
        assert await outcome(pgq.queries, job_id) == "successful"


@pytest.mark.parametrize("cause", ["user", "shutdown"])
async def test_it_is_killed(place: Place, paths: Callable[[int], list[Path]], cause: str) -> None:
    await check_it_is_killed(place, paths, cause)


@pytest.mark.parametrize("cause", ["timeout", "outside"])
async def test_it_is_killed_in_memory(paths: Callable[[int], list[Path]], cause: str) -> None:
    await check_it_is_killed(Place(InMemoryDriver()), paths, cause)


async def check_it_is_killed(place: Place, paths: Callable[[int], list[Path]], cause: str) -> None:
    file, *_ = files = paths(2)
    async with place.open() as pgq, place.open() as elsewhere:
        timeout = 0.5 if cause == "timeout" else None
        pgq.entrypoint("it", executor_factory=ProcessExecutor, timeout=timeout)(
            handlers.runs_for_ever
        )
        (job_id,) = await elsewhere.queries.enqueue("it", payloads(files)[0])
        async with anyio.create_task_group() as tasks:
            await tasks.start(functools.partial(pgq.run, handle_signals=False))
            [process_id] = await have_begun([file])
            if cause == "user":
                assert await elsewhere.queries.mark_job_as_cancelled(job_id) == {job_id}
            elif cause == "shutdown":
                pgq.request_shutdown(0)
            elif cause == "outside":
                tasks.cancel_scope.cancel()
            if cause in {"user", "timeout"}:
                await is_gone(process_id)
                pgq.request_shutdown()
        await is_gone(process_id)
        if cause == "user":
            assert await statuses(pgq.queries, job_id) == ["queued", "picked", "canceled"]
        elif cause == "timeout":
            log = await last_log(pgq, job_id)
            assert log.traceback is not None
            assert log.traceback.exception_type == "JobTimeout"
        else:
            await queued_again(pgq.queries, "it", [job_id])


async def test_as_many_at_once_as_it_has_workers_and_leases_are_kept(
    paths: Callable[[int], list[Path]],
) -> None:
    place = Place(InMemoryDriver())
    files = paths(3)
    async with place.open() as pgq:
        factory = functools.partial(ProcessExecutor, max_workers=1)
        pgq.entrypoint("it", executor_factory=factory)(handlers.runs_while_it_is_there)
        ids = await pgq.queries.enqueue(["it"] * 3, payloads(files))
        async with running(pgq, heartbeat_timeout=1):
            for number in range(3):
                # In the order of the queue, one after another.
                await have_begun(files[number : number + 1])
                assert not any(file.exists() for file in files[number + 1 :])
                await anyio.sleep(1.2)  # the lease of a worker that does not beat would be over
                files[number].unlink()

                async def ended(count: int = 2 - number) -> bool:
                    return (await in_table(pgq.queries)).get("picked", 0) == count

                await until(ended)
        for job_id in ids:
            assert await statuses(pgq.queries, job_id) == ["queued", "picked", "successful"]


async def test_the_timeout_begins_when_the_job_has_a_process(tmp_path: Path) -> None:
    parameters = EntrypointExecutorParameters(func=handlers.runs_for_ever, timeout=0.5)
    executor = ProcessExecutor(parameters, max_workers=1)
    limiter = executor._limiter()
    assert executor._limiter() is limiter
    file = tmp_path / "job"
    one = replace(job(), payload=str(file).encode())
    with anyio.fail_after(START), anyio.CancelScope() as scope:
        scope.deadline = anyio.current_time() + 0.5
        await limiter.acquire_on_behalf_of("somebody else")
        async with anyio.create_task_group() as tasks:
            context = Context(resources={}, cancellation=scope)
            tasks.start_soon(executor.execute, one, context)
            await anyio.sleep(1)
            assert not scope.cancel_called
            limiter.release_on_behalf_of("somebody else")
            [process_id] = await have_begun([file])
    assert scope.cancelled_caught
    await is_gone(process_id)


async def test_a_job_that_waits_for_a_process_is_cancelled_at_once(
    paths: Callable[[int], list[Path]],
) -> None:
    place = Place(InMemoryDriver())
    files = paths(2)
    ended: Notes[int] = Notes()

    class Noting(ProcessExecutor):
        async def execute(self, one: Job, context: Context) -> None:
            try:
                await super().execute(one, context)
            finally:
                ended.add(one.id)

    def make(parameters: EntrypointExecutorParameters) -> AbstractEntrypointExecutor:
        return Noting(parameters, max_workers=1)

    async with place.open() as pgq:
        pgq.entrypoint("it", executor_factory=make)(handlers.runs_while_it_is_there)
        first, second = await pgq.queries.enqueue(["it"] * 2, payloads(files))
        async with running(pgq):
            await have_begun(files[:1])
            await pgq.queries.mark_job_as_cancelled(second)
            assert list(await ended.until(1)) == [second]
            files[0].unlink()
            assert list(await ended.until(2)) == [second, first]


PROGRAM = """
import sys, anyio
from pgq_trio import Job, PgQueuer, ProcessExecutor
from tests.model.records import job
from tests.worker import process_handlers as handlers

async def main() -> None:
    async with PgQueuer.open("memory:") as pgq:
        for name in ("returns", "runs_for_ever"):
            pgq.entrypoint(name, executor_factory=ProcessExecutor)(getattr(handlers, name))
        await pgq.queries.enqueue("returns", sys.argv[2].encode())
        await pgq.run(mode="drain", handle_signals=False)
        if sys.argv[3] == "cancelled":
            await pgq.start()
            await pgq.queries.enqueue("runs_for_ever", sys.argv[2].encode() + b"-2")
            path = anyio.Path(sys.argv[2] + "-2")
            while not await path.exists():
                await anyio.sleep(0.01)
            pgq.request_shutdown(0)
    print("the end")

if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("how", ["idle", "cancelled"])
async def test_the_program_ends_and_its_processes_with_it(
    tmp_path: Path, how: str, anyio_backend_name: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-X", "dev", str(program), anyio_backend_name]
    command += [str(tmp_path / "job"), how]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with anyio.fail_after(START):
        done = await anyio.run_process(command, env=environment, check=False)
    errors = done.stderr.decode()
    # What asyncio (before Python 3.12) says of a process that AnyIO has killed at the end.
    words = re.sub(r"Unknown child process pid \d+, will report returncode 255\n", "", errors)
    assert (done.stdout, words) == (b"the end\n", "")
    for name in ["job"] + ["job-2"] * (how == "cancelled"):
        await is_gone(int((tmp_path / name).read_text()))


async def test_a_process_ends_when_its_program_is_killed(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    program, job = tmp_path / "program.py", tmp_path / "job"
    program.write_text(PROGRAM.replace("pgq.request_shutdown(0)", "await anyio.sleep_forever()"))
    command = [sys.executable, str(program), anyio_backend_name, str(job), "cancelled"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    async with await anyio.open_process(command, env=environment) as process:
        [process_id] = await have_begun([job.with_name("job-2")])
        process.kill()
    await is_gone(process_id)
