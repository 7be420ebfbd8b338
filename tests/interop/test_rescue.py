"""Jobs of a worker that is gone, taken over by a worker of the other kind."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from uuid import UUID

import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.types import QueueEntrypoint, QueueManagerId

from tests.interop.doomed import LEASE, SEATS
from tests.interop.sides import Pair

#: How long a program may take to start and to begin a job, in seconds.
STARTING = 30.0


async def kill_at_work(pair: Pair, count: int) -> set[int]:
    """Have a worker of `one` begin this many jobs and kill it; return their ids."""
    command = [sys.executable, "-m", "tests.interop.doomed"]
    command += ["ours" if pair.one is pair.ours else "theirs", pair.dsn]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        printed = ""
        with anyio.fail_after(STARTING):
            async for text in TextReceiveStream(process.stdout):
                printed += text
                if printed.count("\n") == count:
                    break
        process.kill()
        await process.wait()
    return {int(line) for line in printed.split()}


@pytest.mark.parametrize("shared_dsn", ["installed-by-us"], indirect=True)
async def test_a_killed_worker_s_jobs(pair: Pair) -> None:
    ids = await pair.one.enqueue_all([b"1", b"2", b"3"])
    begun = await kill_at_work(pair, SEATS)
    assert begun == set(ids[:SEATS])
    held = "SELECT id, slot FROM pgqueuer WHERE status = 'picked' ORDER BY id"
    seats = pair.fetch(held)
    assert sorted(slot for _, slot in seats) == [0, 1]
    async with pair.other.work("wait", limit=SEATS, lease=LEASE) as worker:
        seen = await worker.jobs(SEATS)
        # No third: the jobs have kept the seats of the dead.
        assert {job.id for job in seen} == begun
        assert pair.fetch(held) == seats
        await worker.release()
        assert [job.id for job in await worker.jobs(3)][2] == ids[2]
    # Only ours counts rescues.
    counted = 1 if pair.other is pair.ours else 0
    assert {job.attempts for job in seen} == {counted}
    assert {job.payload for job in seen} == {b"1", b"2"}
    assert pair.empty()
    assert pair.one.log(ids[0]) == ["queued", "picked", "picked", "successful"]


@pytest.mark.parametrize("direction", ["ours-first"])
@pytest.mark.parametrize("shared_dsn", ["installed-by-us"], indirect=True)
async def test_our_worker_gives_way_to_theirs_that_has_taken_its_job(pair: Pair) -> None:
    them = UUID(int=7)
    async with pair.ours.work("wait", lease=LEASE) as worker:
        job_id = await pair.ours.enqueue()
        await worker.jobs(1)
        taken = await pair.theirs.peer.run(
            pair.theirs.peer.queries.dequeue(
                batch_size=1,
                entrypoints={QueueEntrypoint("a"): EntrypointExecutionParameter(0)},
                queue_manager_id=QueueManagerId(them),
                global_concurrency_limit=None,
                heartbeat_timeout=timedelta(0),
            )
        )
        assert [job.id for job in taken] == [job_id]
        assert await worker.cancelled(1) == [job_id]
    assert pair.fetch("SELECT id, status::text, queue_manager_id FROM pgqueuer") == [
        (job_id, "picked", them)
    ]
    await pair.theirs.peer.run(pair.theirs.peer.queries.log_jobs([(taken[0], "successful", None)]))
    assert pair.ours.log(job_id) == ["queued", "picked", "picked", "successful"]
