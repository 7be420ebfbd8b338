"""Cancelled from outside: handlers end at once, jobs go back, resources close last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from pgq_trio import Context, Job, PgQueuer
from tests.worker.tools import SOON, Gate, Notes, Place, outcome, queued_again


class Story:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entered: Notes[int] = Notes()

    @asynccontextmanager
    async def resources(self) -> AsyncGenerator[dict[str, object], None]:
        self.lines.append("open")
        try:
            yield {"story": self}
        finally:
            self.lines.append("close")

    def register(self, pgq: PgQueuer, *, cleanup: float = 0.0) -> None:
        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            assert ctx.resources["story"] is self
            self.entered.add(job.id)
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(SOON, shield=True):
                    await anyio.sleep(cleanup)
                    # A job's cleanup may still ask the queue.
                    await pgq.queries.enqueue("from cleanup", dedupe_key=f"job {job.id}")
                self.lines.append("cleanup")


class BoomError(Exception):
    pass


async def by_scope(pgq: PgQueuer, story: Story, scope: anyio.CancelScope) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: pgq.run(handle_signals=False))
        await story.entered.until(3)
        scope.cancel()
        await anyio.sleep_forever()


async def by_deadline(pgq: PgQueuer, story: Story, scope: anyio.CancelScope) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: pgq.run(handle_signals=False))
        await story.entered.until(3)
        scope.deadline = anyio.current_time() + 0.05
        await anyio.sleep_forever()


async def by_deadline_around_run(pgq: PgQueuer, story: Story, scope: anyio.CancelScope) -> None:
    async with anyio.create_task_group() as tasks:

        async def end_it() -> None:
            await story.entered.until(3)
            inner.cancel()

        tasks.start_soon(end_it)
        with anyio.CancelScope() as inner:
            await pgq.run(handle_signals=False)
    assert inner.cancelled_caught
    scope.cancel()


async def by_error_in_block(pgq: PgQueuer, story: Story, scope: anyio.CancelScope) -> None:
    await pgq.start()
    await story.entered.until(3)
    raise BoomError


async def by_sibling(pgq: PgQueuer, story: Story, scope: anyio.CancelScope) -> None:
    async def sibling() -> None:
        await story.entered.until(3)
        raise BoomError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sibling)
        await pgq.run(handle_signals=False)


WAYS = [by_scope, by_deadline, by_deadline_around_run, by_error_in_block, by_sibling]
Way = Callable[[PgQueuer, Story, anyio.CancelScope], Awaitable[None]]


@pytest.mark.parametrize("way", WAYS)
async def test_interrupted_at_once_queued_again_and_resources_close_last(
    place: Place, way: Way
) -> None:
    story = Story()
    ids: list[int] = []
    caught: Exception | None = None
    began = anyio.current_time()
    with anyio.CancelScope() as scope:
        try:
            async with place.open(resources=story.resources) as pgq:
                story.register(pgq, cleanup=0.02)
                ids = await pgq.queries.enqueue(["it"] * 3)
                await way(pgq, story, scope)
        except Exception as exc:  # noqa: BLE001 - looked at below
            caught = exc
    # Far below the grace period of 30 s: nobody waited for the handlers to end on their own.
    assert anyio.current_time() - began < SOON
    assert story.lines == ["open", "cleanup", "cleanup", "cleanup", "close"]
    if way is by_error_in_block:
        assert isinstance(caught, BoomError)  # as itself, not in a group
    elif way is by_sibling:
        assert isinstance(caught, ExceptionGroup)
        assert [type(exc) for exc in caught.exceptions] == [BoomError]
    else:
        assert caught is None
    async with place.open() as later:
        # What the cleanups enqueued while everything was being cancelled is there as well.
        others = range(ids[-1] + 1, ids[-1] + 4)
        await queued_again(later.queries, "it", [*ids, *others], "from cleanup")


async def test_leaving_the_block_normally_drains_what_was_started(place: Place) -> None:
    lines: list[str] = []
    gate = Gate()

    @asynccontextmanager
    async def resources() -> AsyncGenerator[dict[str, object], None]:
        yield {}
        lines.append("close")

    async with anyio.create_task_group() as tasks, place.open(resources=resources) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            await gate.pass_through(job.id)
            lines.append("done")

        await pgq.start(max_concurrent_jobs=1)
        ids = await pgq.queries.enqueue(["it"] * 3)
        await gate.entered.until(1)

        async def open_soon() -> None:
            await anyio.sleep(0.1)  # the block is being left by then, which sends no event
            gate.open()

        tasks.start_soon(open_soon)
    assert lines == ["done", "close"]
    async with place.open() as later:
        assert await outcome(later.queries, ids[0]) == "successful"
        await queued_again(later.queries, "it", ids[1:])


async def test_the_grace_period_bounds_leaving_the_block(place: Place) -> None:
    story = Story()
    async with place.open(resources=story.resources) as pgq:
        story.register(pgq)
        ids = await pgq.queries.enqueue(["it"] * 2)
        await pgq.start(grace_period=0.1)
        await story.entered.until(2)
        began = anyio.current_time()
    assert 0.1 <= anyio.current_time() - began < 5
    assert story.lines == ["open", "cleanup", "cleanup", "close"]
    async with place.open() as later:
        await queued_again(later.queries, "it", ids)


async def test_cancelled_during_the_grace_period(place: Place) -> None:
    """The grace period is for requests; a cancellation from outside does not wait for it."""
    story = Story()
    with anyio.CancelScope() as scope:
        async with place.open(resources=story.resources) as pgq:
            story.register(pgq)
            ids = await pgq.queries.enqueue(["it"] * 2)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pgq.run(grace_period=3600, handle_signals=False))
                await story.entered.until(2)
                pgq.request_shutdown()
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    assert story.lines == ["open", "cleanup", "cleanup", "close"]
    async with place.open() as later:
        await queued_again(later.queries, "it", ids)
