"""What tests of waiting share: knowing when a watcher has looked and when a worker has heard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import psycopg

from pgq_trio import CompletionWatcher, Job, PgQueuer, RetryRequested
from pgq_trio.types import JobId, JobStatus
from tests.worker.tools import SOON, Gate, Place, until

#: Only a notification ends a wait in time then.
NEVER = 3600.0

#: For ends that nobody tells of.
OFTEN = 0.1


async def looked(watcher: CompletionWatcher, count: int) -> None:
    """Wait until a look has found so many waiters' jobs, all of them not ended yet."""

    async def all_seen() -> bool:
        watch = watcher._watch
        assert watch is not None
        waiters = [waiter for each in watch._waiters.values() for waiter in each]
        return len(waiters) == count and all(waiter.seen for waiter in waiters)

    await until(all_seen)


async def heard(pgq: PgQueuer) -> None:
    """Wait until the worker of an application knows that somebody waits."""

    async def is_wanted() -> bool:
        engine = pgq._core._engine
        return engine is not None and engine.worker is not None and engine.worker._teller.is_wanted

    await until(is_wanted)


async def both(
    watcher: CompletionWatcher, job_id: JobId, end: Callable[[], Awaitable[object]]
) -> JobStatus:
    """Wait for a job in two tasks, end it when both have been looked for; what both learned."""
    learned: list[JobStatus] = []

    async def wait() -> None:
        learned.append(await watcher.wait_for(job_id))

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await looked(watcher, 2)
            await end()
    assert len(learned) == 2
    assert learned[0] == learned[1]
    return learned[0]


def with_outcomes(pgq: PgQueuer) -> Gate:
    """Register entrypoints whose jobs end as their payloads say, once the gate is open."""
    gate = Gate()

    @pgq.entrypoint("it")
    async def handler(job: Job) -> None:
        await gate.pass_through(job.id)
        if job.payload == b"exception":
            raise ValueError("as told")
        if job.payload == b"retry" and not job.attempts:
            raise RetryRequested(0)

    @pgq.entrypoint("held", on_failure="hold")
    async def held(job: Job) -> None:
        await gate.pass_through(job.id)
        raise ValueError("held")

    return gate


async def execute(place: Place, statement: str, *params: object) -> None:
    """Run a statement as somebody who knows nothing of queues."""
    assert isinstance(place.target, str)
    target = place.target

    def run() -> None:
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute(statement.encode(), params or None)

    await anyio.to_thread.run_sync(run)
