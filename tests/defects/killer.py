"""A worker that a job of its own kills; run as a program with a conninfo string and a backend."""

from __future__ import annotations

import os
import sys

import anyio

from pgq_trio import Job, PgQueuer, Settings

#: Seconds until a killed worker's jobs are taken over.
LEASE = 0.3


async def main(dsn: str, history: str, max_attempts: int) -> None:
    """Serve one poisonous and one harmless entrypoint until killed, or until drained."""
    async with PgQueuer.open(dsn, settings=Settings(history=history)) as pgq:  # type: ignore[arg-type]

        @pgq.entrypoint("poison", max_attempts=max_attempts)
        async def poison(job: Job) -> None:
            os._exit(99)

        @pgq.entrypoint("harmless")
        async def harmless(job: Job) -> None: ...

        await pgq.run(mode="drain", heartbeat_timeout=LEASE, handle_signals=False)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[3], int(sys.argv[4]), backend=sys.argv[2])
