"""One worker of this package that drains no-op jobs."""

from __future__ import annotations

import argparse

import anyio

from pgq_trio import Job, PgQueuer


async def main(*, defaults: bool) -> None:
    """Drain, with default settings or with many jobs at once."""
    async with PgQueuer.open() as pgq:

        @pgq.entrypoint("noop")
        async def noop(job: Job) -> None:
            pass

        if defaults:
            await pgq.run(mode="drain")
        else:
            await pgq.run(mode="drain", max_concurrent_jobs=1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="trio")
    parser.add_argument("--defaults", action="store_true")
    arguments = parser.parse_args()

    async def start() -> None:
        """Run the worker."""
        await main(defaults=arguments.defaults)

    anyio.run(start, backend=arguments.backend)
