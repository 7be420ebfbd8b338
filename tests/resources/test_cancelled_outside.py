"""A resource's own background tasks live until the last job has cleaned up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import anyio.from_thread
import pytest
import trio

from pgq_trio import Context, Job, PgQueuer, Resources, Schedule, ScheduleContext
from tests.resources.tools import RARE, Boom, Server, Story, leaves, make_due, with_server
from tests.worker.tools import SOON, Notes, Place, queued_again, until


def server_in(ctx: Context | ScheduleContext) -> Server:
    server = ctx.resources["server"]
    assert isinstance(server, Server)
    return server


class Cleanups:
    """Handlers that need the server when they are cancelled."""

    def __init__(self) -> None:
        self.running: Notes[str] = Notes()
        self.answers: list[tuple[str, int]] = []
        self.story = Story()

    async def hold(self, who: str, server: Server) -> None:
        try:
            self.running.add(who)
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(SOON, shield=True):
                await anyio.sleep(0.02)  # time for a server that is cancelled at once to go
            self.answers.append((who, await server.ask_in_cleanup(21)))  # noqa: ASYNC102
            self.story.add("cleaned up")

    async def register(self, pgq: PgQueuer) -> list[int]:
        @pgq.entrypoint("async")
        async def async_job(job: Job, ctx: Context) -> None:
            await self.hold("async", server_in(ctx))

        @pgq.entrypoint("sync")
        def sync_job(job: Job, ctx: Context) -> None:
            anyio.from_thread.run_sync(self.running.add, "sync")
            try:
                while True:
                    anyio.from_thread.check_cancelled()
                    anyio.from_thread.run(anyio.sleep, 0.005)
            finally:
                answer = anyio.from_thread.run(server_in(ctx).ask_in_cleanup, 21)
                self.answers.append(("sync", answer))
                anyio.from_thread.run_sync(self.story.lines.append, "cleaned up")

        @pgq.schedule("schedule", RARE)
        async def schedule(schedule: Schedule, ctx: ScheduleContext) -> None:
            await self.hold("schedule", server_in(ctx))

        await make_due(pgq, "schedule")
        return await pgq.queries.enqueue(["async", "async", "sync"])

    async def until_all_run(self) -> None:
        await self.running.until(4)

    def check(self) -> None:
        """Everybody got an answer, and only then the server was closed."""
        assert sorted(self.answers) == [
            ("async", 42),
            ("async", 42),
            ("schedule", 42),
            ("sync", 42),
        ]
        assert self.story.lines == ["cleaned up"] * 4 + ["close server"]


Program = Callable[[], Coroutine[Any, Any, None]]
#: Runs the program and cancels it from outside once all run.
Cancel = Callable[[Program, Cleanups], Awaitable[None]]


async def by_scope(program: Program, cleanups: Cleanups) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(program)
        await cleanups.until_all_run()
        tasks.cancel_scope.cancel()


async def by_own_scope(program: Program, cleanups: Cleanups) -> None:
    async def cancel() -> None:
        await cleanups.until_all_run()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        with anyio.CancelScope() as scope:
            await program()


async def by_timeout(program: Program, cleanups: Cleanups) -> None:
    async def begin_the_countdown() -> None:
        await cleanups.until_all_run()
        scope.deadline = anyio.current_time() + 0.02

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin_the_countdown)
        with anyio.CancelScope() as scope:
            await program()


async def by_sibling(program: Program, cleanups: Cleanups) -> None:
    boom = Boom()
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program)
            await cleanups.until_all_run()
            raise boom
    assert leaves(caught.value) == [boom]


async def by_native_nursery(program: Program, cleanups: Cleanups) -> None:
    """What a program uses that knows nothing of AnyIO."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program)
        await cleanups.until_all_run()
        nursery.cancel_scope.cancel()


async def by_native_cancel(program: Program, cleanups: Cleanups) -> None:
    """The same on asyncio: `Task.cancel`, as `asyncio.timeout` and `TaskGroup` use it."""

    async def run() -> None:
        await program()

    task = asyncio.create_task(run())
    await cleanups.until_all_run()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_native_timeout(program: Program, cleanups: Cleanups) -> None:
    async def begin_the_countdown() -> None:
        await cleanups.until_all_run()
        timeout.reschedule(asyncio.get_running_loop().time() + 0.02)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin_the_countdown)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                await program()


CANCELS = [by_scope, by_own_scope, by_timeout, by_sibling]
NATIVE = {"trio": [by_native_nursery], "asyncio": [by_native_cancel, by_native_timeout]}


async def cancelled_from_outside(place: Place, cancel: Cancel, *, started: bool) -> None:
    """Run the program, cancel it from outside of `open`, and look at what happened."""
    cleanups = Cleanups()
    ids: list[int] = []

    async def program() -> None:
        async with place.open(resources=with_server(cleanups.story)) as pgq:
            ids.extend(await cleanups.register(pgq))
            if started:
                await pgq.start()
                await anyio.sleep_forever()
            else:
                await pgq.run(handle_signals=False)

    await cancel(program, cleanups)
    cleanups.check()
    async with place.open() as later:
        await queued_again(later.queries, "async", ids, "sync")


@pytest.mark.parametrize("started", [False, True], ids=["in run", "started"])
@pytest.mark.parametrize("cancel", CANCELS)
async def test_it_answers_in_cleanups(place: Place, cancel: Cancel, started: bool) -> None:
    await cancelled_from_outside(place, cancel, started=started)


@pytest.mark.parametrize("started", [False, True], ids=["in run", "started"])
@pytest.mark.parametrize("which", [0, 1])
async def test_it_answers_in_cleanups_when_the_event_loop_itself_cancels(
    anyio_backend_name: str, place: Place, which: int, started: bool
) -> None:
    ways = NATIVE[anyio_backend_name]
    if which >= len(ways):
        return  # Trio has one way to cancel
    await cancelled_from_outside(place, ways[which], started=started)


async def test_it_answers_when_entered_into_resources_and_below_others() -> None:
    story, answers = Story(), list[int]()
    running = anyio.Event()

    async def make() -> Resources:
        resources = Resources()
        await resources.enter("server", Server.open(story))
        await resources.enter("above", story.member("above", closing=ask_while_closing))
        return resources

    async def ask_while_closing() -> None:
        # What was entered later may use what was entered before, until it is closed.
        answers.append(await servers[0].ask(1))

    servers: list[Server] = []
    with anyio.CancelScope() as scope:
        async with PgQueuer.open("memory:", resources=make) as pgq:
            server = pgq.resources["server"]
            assert isinstance(server, Server)
            servers.append(server)

            @pgq.entrypoint("it")
            async def handler(job: Job, ctx: Context) -> None:
                try:
                    running.set()
                    await anyio.sleep_forever()
                finally:
                    answers.append(await server.ask_in_cleanup(21))  # noqa: ASYNC102

            await pgq.queries.enqueue("it")
            await pgq.start()
            await running.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert answers == [42, 2]
    assert story.lines == ["enter above", "close above", "close server"]


async def test_it_answers_while_the_caller_is_cancelled_again_and_again(place: Place) -> None:
    cleanups = Cleanups()

    async def program() -> None:
        async with place.open(resources=with_server(cleanups.story)) as pgq:
            await cleanups.register(pgq)
            await pgq.run(handle_signals=False)

    with anyio.CancelScope() as outermost, anyio.CancelScope() as outer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program)
            await cleanups.until_all_run()
            tasks.cancel_scope.cancel()
            outer.cancel()
            outermost.cancel()
    cleanups.check()


async def test_it_answers_to_cleanups_of_jobs_cancelled_by_id(place: Place) -> None:
    answers: list[int] = []
    running: Notes[int] = Notes()
    async with place.open(resources=with_server()) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            try:
                running.add(job.id)
                await anyio.sleep_forever()
            finally:
                answers.append(await server_in(ctx).ask_in_cleanup(21))  # noqa: ASYNC102

        (job_id,) = await pgq.queries.enqueue("it")
        assert job_id is not None
        await pgq.start()
        await running.until(1)
        assert await pgq.queries.mark_job_as_cancelled([job_id]) == {job_id}

        async def answered() -> bool:
            return bool(answers)

        await until(answered)
        assert await server_in_app(pgq).ask(1) == 2  # and to everybody else afterwards
    assert answers == [42]


def server_in_app(pgq: PgQueuer) -> Server:
    server = pgq.resources["server"]
    assert isinstance(server, Server)
    return server
