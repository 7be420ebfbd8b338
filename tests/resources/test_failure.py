"""Entering that fails claims nothing; a resource that crashes takes the application with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
import pytest
from anyio.abc import TaskStatus

from pgq_trio import Context, Job, PgQueuer, Resources
from pgq_trio.client.queries import Queries
from tests.resources.tools import Boom, Server, Story, fail, leaves
from tests.worker.tools import SOON, Notes, Place, in_table, queued_again, statuses


async def enqueue(place: Place) -> int:
    """Put a job in the queue that anybody might claim."""
    async with place.open() as pgq:
        (job_id,) = await pgq.queries.enqueue("it")
    assert job_id is not None
    return job_id


async def never_claimed(place: Place, job_id: int) -> None:
    """Check that the job is as it was."""
    async with place.open() as pgq:
        assert await statuses(pgq.queries, job_id) == ["queued"]
        await queued_again(pgq.queries, "it", [job_id])


async def run_if_it_opens(place: Place, resources: Callable[[], object]) -> None:
    """The usual program; its job must not run."""
    async with place.open(resources=resources) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            raise AssertionError("nothing may be claimed")

        await pgq.run(mode="drain", handle_signals=False)


#: Makes resources of which entering the second fails with the error.
Fails = Callable[[Story, Exception], Callable[[], object]]


def by_factory(story: Story, error: Exception) -> Callable[[], object]:
    async def make() -> Resources:
        resources = Resources()
        await resources.enter("one", story.member("one"))
        await resources.enter("two", story.member("two", entering=lambda: fail(error)))
        return resources

    return make


def by_factory_after_entering(story: Story, error: Exception) -> Callable[[], object]:
    async def make() -> Resources:
        resources = Resources()
        await resources.enter("one", story.member("one"))
        raise error

    return make


def by_nested_managers(story: Story, error: Exception) -> Callable[[], object]:
    @asynccontextmanager
    async def manager() -> AsyncGenerator[dict[str, object], None]:
        async with (
            story.member("one"),
            story.member("two", entering=lambda: fail(error)),
        ):
            yield {}

    return manager


def by_manager_around_resources(story: Story, error: Exception) -> Callable[[], object]:
    @asynccontextmanager
    async def manager() -> AsyncGenerator[Resources, None]:
        async with Resources() as resources:
            await resources.enter("one", story.member("one"))
            await resources.enter("two", story.member("two", entering=lambda: fail(error)))
            yield resources

    return manager


FAILS = [by_factory, by_factory_after_entering, by_nested_managers, by_manager_around_resources]


@pytest.mark.parametrize("fails", FAILS)
async def test_entering_fails(place: Place, fails: Fails) -> None:
    story, error = Story(), Boom("cannot be entered")
    job_id = await enqueue(place)
    with pytest.raises(Boom) as caught:
        await run_if_it_opens(place, fails(story, error))
    assert caught.value is error  # as itself, in no group
    assert [line for line in story.lines if line != "enter two"] == ["enter one", "close one"]
    await never_claimed(place, job_id)


async def test_entering_fails_with_a_group_of_the_resources_own() -> None:
    group = ExceptionGroup("two at once", [Boom("one"), Boom("two")])
    with pytest.raises(ExceptionGroup) as caught:
        async with PgQueuer.open("memory:", resources=lambda: fail(group)):
            raise AssertionError("not reached")
    assert caught.value is group


async def test_entering_fails_and_so_does_closing_the_others(place: Place) -> None:
    story, entering, closing = Story(), Boom("entering"), Boom("closing")

    async def make() -> Resources:
        resources = Resources()
        await resources.enter("zero", story.member("zero"))
        await resources.enter("one", story.member("one", closing=lambda: fail(closing)))
        await resources.enter("two", story.member("two", entering=lambda: fail(entering)))
        return resources

    job_id = await enqueue(place)
    with pytest.raises((Boom, ExceptionGroup)) as caught:
        await run_if_it_opens(place, make)
    assert set(map(id, leaves(caught.value))) == {id(entering), id(closing)}
    assert story.lines[-2:] == ["close one", "close zero"]
    await never_claimed(place, job_id)


async def test_entering_that_hangs_can_be_cancelled_from_outside(place: Place) -> None:
    story, entering = Story(), anyio.Event()

    async def hang() -> None:
        entering.set()
        await anyio.sleep_forever()

    async def make() -> Resources:
        resources = Resources()
        await resources.enter("one", story.member("one"))
        await resources.enter("two", story.member("two", entering=hang))
        return resources

    job_id = await enqueue(place)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_if_it_opens, place, make)
        with anyio.fail_after(SOON):
            await entering.wait()
        tasks.cancel_scope.cancel()
    assert story.lines == ["enter one", "enter two", "close one"]
    await never_claimed(place, job_id)


async def test_a_server_entered_before_closes_when_entering_hangs_and_is_cancelled() -> None:
    story = Story()

    async def make() -> Resources:
        resources = Resources()
        await resources.enter("server", Server.open(story))
        await resources.enter("above", story.member("above"))
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    with anyio.move_on_after(0.05) as scope:
        async with PgQueuer.open("memory:", resources=make):
            raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert story.lines == ["enter above", "close above", "close server"]


async def test_a_timeout_around_entering_is_a_timeout(place: Place) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            async with place.open(resources=anyio.sleep_forever):
                raise AssertionError("not reached")


# A resource's own background task crashes


class Crashing:
    """Resources of which one has a background task that fails when told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.story = Story()
        self.crash = anyio.Event()

    async def background(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await self.crash.wait()
        raise self.error

    @asynccontextmanager
    async def member(self) -> AsyncGenerator[str, None]:
        """Fails as anybody's task group fails: with a group."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.background)
            try:
                yield "crashing"
            finally:
                self.story.add("close crashing")
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def bare(self) -> AsyncGenerator[str, None]:
        """Fails as a library that takes care does: with the error itself."""
        try:
            async with self.member() as member:
                yield member
        except ExceptionGroup as group:
            (error,) = leaves(group)
            raise error from None

    async def make(self, *, bare: bool) -> Resources:
        resources = Resources()
        await resources.enter("below", self.story.member("below"))
        await resources.enter("it", self.bare() if bare else self.member())
        await resources.enter("above", self.story.member("above"))
        return resources


async def in_run(pgq: PgQueuer, running: Notes[int], crash: anyio.Event) -> None:
    async def crash_soon() -> None:
        await running.until(2)
        crash.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crash_soon)
        await pgq.run(handle_signals=False)


async def in_run_alone(pgq: PgQueuer, running: Notes[int], crash: anyio.Event) -> None:
    await pgq.run(handle_signals=False)


async def started(pgq: PgQueuer, running: Notes[int], crash: anyio.Event) -> None:
    await pgq.start()
    await running.until(2)
    crash.set()
    await anyio.sleep_forever()


async def started_and_left(pgq: PgQueuer, running: Notes[int], crash: anyio.Event) -> None:
    """The block is over and waits for its run to drain when the resource crashes."""
    await pgq.start(grace_period=60)
    await running.until(2)
    crash.set()


Body = Callable[[PgQueuer, Notes[int], anyio.Event], Awaitable[None]]


@pytest.mark.parametrize("bare", [True, False], ids=["bare error", "in a group"])
@pytest.mark.parametrize("body", [in_run, in_run_alone, started, started_and_left])
async def test_a_crash_cancels_the_application(place: Place, body: Body, bare: bool) -> None:
    crashing, running, ids = Crashing(Boom("lost the server")), Notes[int](), list[int]()
    began = anyio.current_time()
    with pytest.raises((Boom, ExceptionGroup)) as caught:
        async with place.open(resources=lambda: crashing.make(bare=bare)) as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job, ctx: Context) -> None:
                running.add(job.id)
                if body is in_run_alone and len(running.entries) == 2:
                    crashing.crash.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    crashing.story.add("cleanup")

            ids = [one or 0 for one in await pgq.queries.enqueue(["it"] * 2)]
            await body(pgq, running, crashing.crash)
    assert anyio.current_time() - began < SOON
    if bare:
        assert caught.value is crashing.error
    else:
        # The one group is the resource's own; nobody wrapped it once more.
        if isinstance(caught.value, ExceptionGroup):
            assert caught.value.exceptions == (crashing.error,)
        assert leaves(caught.value) == [crashing.error]
    assert crashing.story.lines == [
        "enter below",
        "enter above",
        "cleanup",
        "cleanup",
        "close above",
        "close crashing",
        "close below",
    ]
    async with place.open() as later:
        await queued_again(later.queries, "it", ids)


async def test_a_crash_before_anything_runs_claims_nothing(place: Place) -> None:
    job_id = await enqueue(place)
    crashing = Crashing(Boom())
    with pytest.raises(Boom) as caught:
        async with place.open(resources=lambda: crashing.make(bare=True)):
            crashing.crash.set()
            await anyio.sleep_forever()
    assert caught.value is crashing.error
    await never_claimed(place, job_id)


async def test_a_resource_may_swallow_the_error_of_the_block() -> None:
    """As a context manager may, and nothing is lost by it: the jobs have ended before."""

    class Suppressing(dict[str, object]):
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *exc: object) -> bool:
            return True

    async with PgQueuer.open("memory:", resources=Suppressing()):
        pass


async def test_queries_can_still_be_used_by_cleanups_after_a_crash(place: Place) -> None:
    crashing, running = Crashing(Boom()), Notes[int]()
    with pytest.raises(Boom):
        async with place.open(resources=lambda: crashing.make(bare=True)) as pgq:
            queries: Queries = pgq.queries

            @pgq.entrypoint("it")
            async def handler(job: Job, ctx: Context) -> None:
                try:
                    running.add(job.id)
                    await anyio.sleep_forever()
                finally:
                    with anyio.move_on_after(SOON, shield=True):
                        await queries.enqueue("from cleanup")

            await queries.enqueue("it")
            await pgq.start()
            await running.until(1)
            crashing.crash.set()
            await anyio.sleep_forever()
    async with place.open() as later:
        assert await in_table(later.queries) == {"queued": 2}
