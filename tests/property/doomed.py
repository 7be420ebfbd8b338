"""Workers that kill themselves at a certain moment; run as a program with a DSN and a backend.

It reads numbers, one a line: the worker to come is killed at that moment, and what became of it is
written, "killed" or "drained". A moment is before the request of a store's operation, or after its
change. The workers are forked from a program that has imported everything, since that takes longer
than their lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import anyio

from pgq_trio import Job, PgQueuer, RetryRequested
from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import ConnectionPool, open_pool
from pgq_trio.testing import Call, UnreliableDriver

#: In seconds; nobody's lease expires but by the test's doing.
LEASE = 3600.0


def register(pgq: PgQueuer, starts: Callable[[Job], object]) -> None:
    """Have an application do what the payloads say; tell who starts."""

    @pgq.entrypoint("it")
    async def it(job: Job) -> None:
        starts(job)
        if job.payload == b"fail":
            raise ValueError("as asked")
        if job.payload == b"again" and job.attempts == 0:
            raise RetryRequested(delay=0.0)


async def drain(pgq: PgQueuer) -> None:
    """Run until there is nothing left to do."""
    await pgq.run(
        mode="drain", max_concurrent_jobs=2, heartbeat_timeout=LEASE, handle_signals=False
    )


class Fate:
    """Kills the process at its n-th moment."""

    def __init__(self, moment: int) -> None:
        self._left = moment

    async def pass_moment(self, _: Call) -> None:
        """Let a moment pass, or not."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        await anyio.lowlevel.checkpoint()


async def work(dsn: str, moment: int) -> None:
    """Drain the queue, unless the moment comes first."""
    pool: ConnectionPool[object]
    async with open_pool(dsn, max_size=3, autocommit=True) as pool:
        driver = UnreliableDriver(PsycopgDriver(pool))
        driver.before = driver.after = Fate(moment).pass_moment
        async with PgQueuer.open(driver) as pgq:
            register(pgq, lambda _: None)
            await drain(pgq)


def live(dsn: str, backend: str, moment: int) -> str:
    """Fork a worker; return what became of it."""
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            anyio.run(work, dsn, moment, backend=backend)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(worker, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "drained" if os.waitstatus_to_exitcode(status) == 0 else "failed"


if __name__ == "__main__":
    for line in sys.stdin:
        print(live(sys.argv[1], sys.argv[2], int(line)), flush=True)
