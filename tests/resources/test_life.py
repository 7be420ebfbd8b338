"""Entered once before anything runs, left once after the last cleanup, whatever the end is."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
import anyio.to_thread
import pytest

from pgq_trio import Context, Job, PgqError, PgQueuer, Resources, Schedule
from tests.resources.tools import RARE, Boom, Story, make_due
from tests.worker.tools import SOON, Notes, Place, drain, queued_again


class Program:
    """An application with nested resources, two jobs and a schedule that hold on."""

    def __init__(self) -> None:
        self.story = Story()
        self.running: Notes[str] = Notes()

    async def resources(self) -> Resources:
        """Two members, one on the other."""
        resources = Resources(program=self)
        await resources.enter("outer", self.story.member("outer"))
        await resources.enter("inner", self.story.member("inner"))
        return resources

    async def hold(self, who: str) -> None:
        """Run until cancelled, then take some time to clean up."""
        self.story.add(f"{who} begins")
        self.running.add(who)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(SOON, shield=True):
                await anyio.sleep(0.03)
            self.story.add(f"{who} cleaned up")

    async def register(self, pgq: PgQueuer) -> list[int]:
        """Register and enqueue; the ids of the jobs."""

        @pgq.entrypoint("job")
        async def job(job: Job, ctx: Context) -> None:
            assert ctx.resources["program"] is self
            await self.hold("job")

        @pgq.schedule("schedule", RARE)
        async def schedule(schedule: Schedule) -> None:
            await self.hold("schedule")

        await make_due(pgq, "schedule")
        return await pgq.queries.enqueue(["job"] * 2)


#: Ends the program: gets the application, the program and the scope around `open`.
End = Callable[[PgQueuer, Program, anyio.CancelScope], Awaitable[None]]


async def until_all_run(program: Program) -> None:
    await program.running.until(3)


async def by_return(pgq: PgQueuer, program: Program, scope: anyio.CancelScope) -> None:
    await pgq.start(grace_period=0.05)
    await until_all_run(program)


async def by_shutdown(pgq: PgQueuer, program: Program, scope: anyio.CancelScope) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: pgq.run(handle_signals=False))
        await until_all_run(program)
        pgq.request_shutdown(0.05)


async def by_error(pgq: PgQueuer, program: Program, scope: anyio.CancelScope) -> None:
    await pgq.start()
    await until_all_run(program)
    raise Boom


async def by_error_beside_run(pgq: PgQueuer, program: Program, scope: anyio.CancelScope) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: pgq.run(handle_signals=False))
        await until_all_run(program)
        raise Boom


async def by_outer_scope(pgq: PgQueuer, program: Program, scope: anyio.CancelScope) -> None:
    await pgq.start()
    await until_all_run(program)
    scope.cancel()
    await anyio.sleep_forever()


async def by_outer_scope_while_run(
    pgq: PgQueuer, program: Program, scope: anyio.CancelScope
) -> None:
    async with anyio.create_task_group() as tasks:

        async def cancel() -> None:
            await until_all_run(program)
            scope.cancel()

        tasks.start_soon(cancel)
        await pgq.run(handle_signals=False)


async def by_deadline(pgq: PgQueuer, program: Program, scope: anyio.CancelScope) -> None:
    await pgq.start()
    await until_all_run(program)
    scope.deadline = anyio.current_time() + 0.02
    await anyio.sleep_forever()


ENDS = [
    by_return,
    by_shutdown,
    by_error,
    by_error_beside_run,
    by_outer_scope,
    by_outer_scope_while_run,
    by_deadline,
]


@pytest.mark.parametrize("end", ENDS)
async def test_the_order_of_a_life(place: Place, end: End) -> None:
    program = Program()
    caught: list[BaseException] = []
    task = anyio.get_current_task().id
    ids: list[int] = []
    with anyio.CancelScope() as scope:
        try:
            async with place.open(resources=program.resources) as pgq:
                assert program.story.lines == ["enter outer", "enter inner"]
                ids = await program.register(pgq)
                await end(pgq, program, scope)
        except (Boom, ExceptionGroup) as exc:
            caught.append(exc)
    lines = program.story.lines
    assert lines[:2] == ["enter outer", "enter inner"]
    assert sorted(lines[2:5]) == ["job begins", "job begins", "schedule begins"]
    assert sorted(lines[5:8]) == ["job cleaned up", "job cleaned up", "schedule cleaned up"]
    assert lines[8:] == ["close inner", "close outer"]
    # Entered and left in the task that opened the application.
    tasks = program.story.tasks
    assert {*tasks[:2], *tasks[8:]} == {task}
    assert bool(caught) == (end in (by_error, by_error_beside_run))
    async with place.open() as later:
        await queued_again(later.queries, "job", ids)


async def test_several_runs_in_one_life(place: Place) -> None:
    story = Story()
    async with place.open(resources=story.container) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            story.add("job")

        for _ in range(3):
            await pgq.queries.enqueue("it")
            await drain(pgq)
    assert story.lines == ["enter it", "job", "job", "job", "close it"]


async def test_without_a_run_it_is_entered_and_left_as_well(place: Place) -> None:
    story = Story()
    async with place.open(resources=story.container):
        story.add("block")
    assert story.lines == ["enter it", "block", "close it"]


async def test_no_resource_is_entered_when_the_server_refuses() -> None:
    story = Story()
    with pytest.raises(PgqError, match="nonsense"):
        async with PgQueuer.open("nonsense = nowhere", resources=story.container):
            raise AssertionError("not reached")
    assert story.lines == []


async def test_connections_outlive_resources(place: Place) -> None:
    """A resource may use the queue while it closes: connections open first and close last."""
    sizes: list[int] = []
    opened: list[PgQueuer] = []

    @asynccontextmanager
    async def resources() -> AsyncGenerator[dict[str, object], None]:
        yield {}
        sizes.append(len(await opened[0].queries.queue_size()))

    async with place.open(resources=resources) as pgq:
        opened.append(pgq)
        await pgq.queries.enqueue("nobody's")
    assert sizes == [1]


class Transaction(dict[str, object]):
    """A resource that must know whether the program ended well."""

    def __init__(self) -> None:
        super().__init__()
        self.left_with: list[BaseException | None] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self.left_with.append(exc)


async def test_a_resource_is_left_with_the_error_that_ends_the_program(place: Place) -> None:
    well, badly, error = Transaction(), Transaction(), Boom()
    async with place.open(resources=well):
        pass
    with pytest.raises(Boom) as caught:
        async with place.open(resources=badly):
            raise error
    assert caught.value is error
    assert (well.left_with, badly.left_with) == ([None], [error])


async def test_a_resource_of_a_cancelled_program_is_left_as_at_a_good_end() -> None:
    """Jobs and block have ended by then; docs/how-to/resources.md says so."""
    transaction = Transaction()
    with anyio.CancelScope() as scope:
        async with PgQueuer.open("memory:", resources=transaction):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert transaction.left_with == [None]


# Ctrl-C


async def interrupted(backend: str, target: str, how: str) -> list[str]:
    """Run the program, interrupt it when its job runs; what it printed."""

    def run() -> tuple[str, str, int]:
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.resources.program", backend, target, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                printed: list[str] = []
                for line in process.stdout:
                    printed.append(line)
                    if line == "started\n":
                        process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=20)
            finally:
                process.kill()
        return "".join(printed) + out, err, process.returncode

    out, err, code = await anyio.to_thread.run_sync(run)
    if how == "handled":
        assert (err, code) == ("", 0)
    else:
        assert err.splitlines()[-1] == "KeyboardInterrupt"  # as itself
        assert "Group" not in err
        assert code != 0
    return out.splitlines()


@pytest.mark.parametrize("how", ["handled", "run", "started"])
async def test_ctrl_c(database: Place, anyio_backend_name: str, how: str) -> None:
    target = database.target
    assert isinstance(target, str)
    assert await interrupted(anyio_backend_name, target, how) == [
        "enter one",
        "enter two",
        "started",
        "cleaned up with 42",
        "close two",
        "close one",
    ]
    async with database.open() as later:
        await queued_again(later.queries, "it", [1])


@pytest.mark.parametrize("how", ["handled", "run", "started"])
async def test_ctrl_c_in_memory(anyio_backend_name: str, how: str) -> None:
    lines = await interrupted(anyio_backend_name, "memory:", how)
    assert lines[3:] == ["cleaned up with 42", "close two", "close one"]
