"""A small program to interrupt: `python -m tests.resources.program BACKEND TARGET HOW`.

HOW is where Ctrl-C finds it: "handled" by `run`, in "run" or in a "started" application that leave
signals alone. It prints what happens, line by line.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from pgq_trio import Context, Job, PgQueuer, Resources
from tests.resources.tools import Server


def say(line: str) -> None:
    """Print a line now."""
    print(line, flush=True)


@asynccontextmanager
async def member(name: str) -> AsyncGenerator[str, None]:
    """A resource whose closing takes a moment."""
    say(f"enter {name}")
    try:
        yield name
    finally:
        await anyio.sleep(0.01)  # noqa: ASYNC102
        say(f"close {name}")


async def make() -> Resources:
    """A member, a server of its own task, and a member on top."""
    resources = Resources()
    await resources.enter("one", member("one"))
    await resources.enter("server", Server.open())
    await resources.enter("two", member("two"))
    return resources


async def main(target: str, how: str) -> None:
    """Run one job that waits, with resources around it."""
    async with PgQueuer.open(target, resources=make) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job, ctx: Context) -> None:
            server = ctx.resources["server"]
            assert isinstance(server, Server)
            try:
                say("started")
                await anyio.sleep(60)
            finally:
                say(f"cleaned up with {await server.ask_in_cleanup(21)}")  # noqa: ASYNC102

        await pgq.queries.enqueue("it")
        if how == "handled":
            await pgq.run(grace_period=0.2)
        elif how == "run":
            await pgq.run(handle_signals=False)
        else:
            await pgq.start()
            await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[2], sys.argv[3], backend=sys.argv[1])
