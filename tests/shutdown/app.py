"""A small program that the signal tests run: `python -m tests.shutdown.app BACKEND DSN GATE`.

It prints what happens, line by line; a running job ends once the file GATE is there.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from pgq_trio import Context, Job, PgQueuer


def say(line: str) -> None:
    print(line, flush=True)


@asynccontextmanager
async def resources() -> AsyncGenerator[dict[str, object], None]:
    yield {}
    say("resources closed")


async def main(dsn: str, gate: anyio.Path) -> None:
    async with PgQueuer.open(dsn, resources=resources) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            say("started")
            try:
                while not await gate.exists():
                    await anyio.sleep(0.01)
                say("finished")
            finally:
                say("cleaned up")

        await pgq.run(max_concurrent_jobs=1, grace_period=60)


if __name__ == "__main__":
    anyio.run(main, sys.argv[2], anyio.Path(sys.argv[3]), backend=sys.argv[1])
