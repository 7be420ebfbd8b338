"""Each package's CompletionWatcher sees the endings that the other writes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import anyio
import pytest
from pgqueuer.core.completion import CompletionWatcher as TheirWatcher
from pgqueuer.types import JOB_STATUS, JobId as TheirJobId

from pgq_trio.client.completion import CompletionWatcher
from tests.interop.sides import Pair
from tests.worker.tools import SOON

ENDINGS = ["successful", "exception", "canceled"]


async def end(pair: Pair, job_id: int, ending: str) -> None:
    """Have the worker of `one` end a job; `other` is who cancels."""
    script = {"successful": "return", "exception": "raise", "canceled": "wait"}[ending]
    async with pair.one.work(script) as worker:  # type: ignore[arg-type]
        await worker.jobs(1)
        if ending == "canceled":
            await pair.other.cancel(job_id)
            await worker.cancelled(1)


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_theirs_sees_ours(pair: Pair, ending: str) -> None:
    job_id = await pair.theirs.enqueue()
    peer = pair.theirs.peer
    # Our installation sends nothing on a DELETE, so there their poll finds it.
    watcher = await peer.make(
        lambda: TheirWatcher(
            peer.queries.driver, queries=peer.queries, refresh_interval=timedelta(seconds=0.2)
        )
    )

    seen: list[str] = []

    async def wait() -> None:
        async with watcher:
            seen.append(await watcher.wait_for(TheirJobId(job_id)))

    async def watch() -> None:
        with anyio.fail_after(SOON):
            await peer.run(wait())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await end(pair, job_id, ending)
    assert seen == [ending]


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize(
    "shared_dsn",
    [
        "installed-by-pgqueuer"
    ],  # our own trigger is silent on DELETE, see docs/reference/pgqueuer.md
    indirect=True,
)
async def test_theirs_is_told_of_our_ending_without_a_poll(pair: Pair) -> None:
    job_id = await pair.theirs.enqueue()
    peer = pair.theirs.peer
    watcher = await peer.make(
        lambda: TheirWatcher(peer.queries.driver, queries=peer.queries, refresh_interval=None)
    )

    async def look() -> asyncio.Future[JOB_STATUS]:
        await watcher.__aenter__()
        future = watcher.wait_for(TheirJobId(job_id))
        while watcher.debounce_task is not None:  # until it has seen that the job still runs
            await asyncio.sleep(0.01)
        return future

    async def wait(future: asyncio.Future[JOB_STATUS]) -> str:
        try:
            return await asyncio.wait_for(future, 1.5)
        finally:
            await watcher.__aexit__(None)

    async with pair.ours.work("wait") as worker:
        await worker.jobs(1)
        future = await peer.run(look())
        await worker.release()
        assert await peer.run(wait(future)) == "successful"


@pytest.mark.parametrize("direction", ["theirs-first"])
@pytest.mark.parametrize("ending", [*ENDINGS, "failed"])
async def test_ours_sees_theirs(pair: Pair, ending: str) -> None:
    job_id = await pair.ours.enqueue()
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(CompletionWatcher(pair.ours.queries))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        seen: list[str] = []

        async def watch() -> None:
            with anyio.fail_after(SOON):
                seen.append(await watcher.wait_for(job_id))

        tasks.start_soon(watch)
        if ending == "failed":
            await pair.theirs.run_one("raise", on_failure="hold")
        else:
            await end(pair, job_id, ending)
    assert seen == [ending]
