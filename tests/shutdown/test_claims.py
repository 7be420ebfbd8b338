"""A claim that is under way when the worker stops: what it brings goes back as well."""

from __future__ import annotations

import anyio
import pytest

from pgq_trio import Job
from pgq_trio.abc import Claimed
from tests.worker.stores import WatchedDriver
from tests.worker.tools import SOON, Gate, Notes, Place, in_table, queued_again, running, until


@pytest.mark.parametrize("replies", ["claim first", "release first"])
async def test_it_may_take_what_was_just_given_back(place: Place, replies: str) -> None:
    """The waiting job is given back, and the claim that is under way takes that very row.

    Which of the two replies the worker hears first must not matter.
    """
    gate = Gate()
    held, released, taken = anyio.Event(), anyio.Event(), anyio.Event()
    holding = False
    async with place.driver() as driver:
        watched = WatchedDriver(driver)

        async def before(name: str, given: object) -> None:
            nonlocal holding
            if name == "claim" and holding:
                holding = False
                held.set()
                with anyio.move_on_after(SOON):
                    await released.wait()

        async def after(name: str, result: object) -> None:
            if name == "release" and not released.is_set():
                released.set()
                if replies == "claim first":
                    with anyio.move_on_after(SOON):
                        await taken.wait()
                    await anyio.sleep(0.05)  # the claimer has its reply by then
            elif isinstance(result, Claimed) and released.is_set():
                if replies == "release first":
                    await anyio.sleep(0.05)
                taken.set()

        watched.jobs.before, watched.jobs.after = before, after
        async with Place(watched).open() as pgq, place.open() as elsewhere:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                await gate.pass_through(job.id)

            async with running(pgq, max_concurrent_jobs=2, grace_period=60):
                ids = await elsewhere.queries.enqueue(["it"] * 3)
                await gate.entered.until(2)

                async def prefetched() -> bool:
                    return await in_table(elsewhere.queries) == {"picked": 3}

                await until(prefetched)
                holding = True
                await elsewhere.queries.enqueue("for somebody else")
                with anyio.fail_after(SOON):
                    await held.wait()
                pgq.request_shutdown()
                with anyio.fail_after(SOON):
                    await taken.wait()
                gate.open()
            await queued_again(elsewhere.queries, "it", ids[2:])


async def test_what_it_brings_after_a_cancellation_goes_back(place: Place) -> None:
    """Cancelled while a claim is under way: its jobs are claimed, and given back unstarted."""
    begun: Notes[str] = Notes()
    go_on = anyio.Event()
    async with place.driver() as driver:
        watched = WatchedDriver(driver)

        async def before(name: str, given: object) -> None:
            if name == "claim":
                begun.add(name)
                await go_on.wait()

        watched.jobs.before = before
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                raise AssertionError("nothing is started after the cancellation")

            ids = await pgq.queries.enqueue(["it"] * 5)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pgq.run(handle_signals=False))
                await begun.until(1)
                tasks.cancel_scope.cancel()
                go_on.set()
            await queued_again(pgq.queries, "it", ids)
