"""A worker of either package that tests kill: `python -m tests.interop.doomed ours|theirs DSN`.

It prints the id of each job that starts, and its jobs never end.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import anyio
from pgqueuer import PgQueuer as TheirPgQueuer
from pgqueuer.models import Job as TheirJob

from pgq_trio import Job, PgQueuer
from tests.interop.peer import open_peer

#: Age at which leases expire in these fleets, in seconds.
LEASE = 1.0

#: The limit of the only entrypoint, "a".
SEATS = 2


async def never_end(job: Job | TheirJob) -> None:
    """Be the handler."""
    print(job.id, flush=True)
    await anyio.sleep_forever()


async def ours(dsn: str) -> None:
    """Run this package's worker."""
    async with PgQueuer.open(dsn) as pgq:
        pgq.entrypoint("a", concurrency_limit=SEATS)(never_end)
        await pgq.run(heartbeat_timeout=LEASE)


async def theirs(dsn: str) -> None:
    """Run PgQueuer's worker."""

    def register(pgq: TheirPgQueuer) -> None:
        pgq.entrypoint("a", concurrency_limit=SEATS)(never_end)

    async with (
        open_peer(dsn) as peer,
        peer.working(register, heartbeat_timeout=timedelta(seconds=LEASE)),
    ):
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run({"ours": ours, "theirs": theirs}[sys.argv[1]], sys.argv[2])
