"""One worker of PgQueuer on asyncpg that drains no-op jobs in its best batch size."""

from __future__ import annotations

import asyncio
import os

import asyncpg
from pgqueuer import AsyncpgDriver, Job, PgQueuer
from pgqueuer.types import QueueExecutionMode
from psycopg.conninfo import conninfo_to_dict


async def main() -> None:
    """Drain."""
    target = conninfo_to_dict(os.environ["PGQUEUER_DSN"])
    connection = await asyncpg.connect(
        host=target["host"],
        port=target.get("port"),
        user=target["user"],
        database=target["dbname"],
    )
    pgq = PgQueuer(AsyncpgDriver(connection))

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        pass

    await pgq.run(batch_size=1000, mode=QueueExecutionMode.drain)


if __name__ == "__main__":
    asyncio.run(main())
