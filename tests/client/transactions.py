"""What tests of transactions of callers share: a worker that serves a queue, and looking at it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg

from pgq_trio import Job, PgQueuer
from tests.worker.tools import Notes, running

#: Seconds between two looks of a worker without a wake-up: longer than any test.
POLL = 600.0


@asynccontextmanager
async def serving(dsn: str) -> AsyncGenerator[Notes[bytes | None]]:
    """A worker on the queue of a database; it notes the payloads of `it` as they come."""
    notes: Notes[bytes | None] = Notes()
    async with PgQueuer.open(dsn) as pgq:

        @pgq.entrypoint("it")
        async def handler(job: Job) -> None:
            notes.add(job.payload)

        async with running(pgq, dequeue_timeout=POLL):
            yield notes


def payloads_in(dsn: str) -> list[bytes | None]:
    """What others see in the queue."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT payload FROM pgqueuer ORDER BY id").fetchall()
    return [row[0] for row in rows]


def named_as(module: str, name: str) -> object:
    """An object of a class with this name: SQLAlchemy's async classes need a further package."""
    return type(name, (), {"__module__": module})()
