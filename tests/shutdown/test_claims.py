"""A claim that is under way when the worker stops: what it brings goes back as well."""

from __future__ import annotations

import anyio
import pytest

from pgq_trio import Job
from pgq_trio.abc import Claimed
from pgq_trio.testing import Call, UnreliableDriver
from tests.worker.tools import SOON, Gate, Place, in_table, queued_again, running, until


@pytest.mark.parametrize("replies", ["claim first", "release first"])
async def test_it_may_take_what_was_just_given_back(place: Place, replies: str) -> None:
    """The waiting job is given back, and the claim that is under way takes that very row.

    Which of the two replies the worker hears first must not matter.
    """
    gate = Gate()
    held, released, taken = anyio.Event(), anyio.Event(), anyio.Event()
    holding = False
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)

        async def before(call: Call) -> None:
            nonlocal holding
            if call.name == "claim" and holding:
                holding = False
                held.set()
                with anyio.move_on_after(SOON):
                    await released.wait()

        async def after(call: Call) -> None:
            if call.name == "release" and not released.is_set():
                released.set()
                if replies == "claim first":
                    with anyio.move_on_after(SOON):
                        await taken.wait()
                    await anyio.sleep(0.05)  # the claimer has its reply by then
            elif isinstance(call.result, Claimed) and released.is_set():
                if replies == "release first":
                    await anyio.sleep(0.05)
                taken.set()

        watched.before, watched.after = before, after
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
    async with place.driver() as driver:
        watched = UnreliableDriver(driver)
        claims = watched.hold("claim", times=1000)
        async with Place(watched).open() as pgq:

            @pgq.entrypoint("it")
            async def handler(job: Job) -> None:
                raise AssertionError("nothing is started after the cancellation")

            ids = await pgq.queries.enqueue(["it"] * 5)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pgq.run(handle_signals=False))
                with anyio.fail_after(SOON):
                    await claims.until_arrived()
                tasks.cancel_scope.cancel()
                claims.release()
            await queued_again(pgq.queries, "it", ids)
