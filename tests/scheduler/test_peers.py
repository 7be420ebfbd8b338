"""What a PgQueuer 1.6 scheduler makes of schedules that are paused, resumed and triggered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pgqueuer.models import CronExpressionEntrypoint
from pgqueuer.queries import Queries as PeersQueries
from pgqueuer.types import CronEntrypoint, CronExpression

from pgq_trio.db import PsycopgDriver
from pgq_trio.postgres import connect
from pgq_trio.settings import Settings
from tests.scheduler.tools import add_due, row
from tests.schema import pgqueuers

EVERY_HOUR = "0 * * * *"
KEY = CronExpressionEntrypoint(
    entrypoint=CronEntrypoint("work"), expression=CronExpression(EVERY_HOUR)
)


async def take(queries: PeersQueries) -> list[Any]:
    """Their look for due schedules, which takes what it finds."""
    return await queries.fetch_schedule({KEY: timedelta(minutes=30)})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_they_leave_paused_schedules_alone_and_fire_triggered_ones(
    installed_dsn: str,
) -> None:
    async with await connect(installed_dsn, autocommit=True) as connection:
        store = PsycopgDriver(connection).backend(Settings()).schedules
        await add_due(store, "work", EVERY_HOUR, ago=timedelta(hours=1))
        await store.pause(entrypoints=["work"])
        assert await pgqueuers.with_queries(installed_dsn, take) == []
        await store.resume(entrypoints=["work"])
        (theirs,) = await pgqueuers.with_queries(installed_dsn, take)
        assert await pgqueuers.with_queries(installed_dsn, take) == []

        # Paused and resumed while they run it: theirs still, beside a heartbeat of theirs.
        await store.pause(entrypoints=["work"])
        await pgqueuers.with_queries(
            installed_dsn, lambda queries: queries.update_schedule_heartbeat({theirs.id})
        )
        await store.resume(entrypoints=["work"])
        assert (await row(store)).status == "picked"

        # Triggered while they run it, so that it fires again when they have ended it.
        await store.trigger(entrypoints=["work"])
        assert await pgqueuers.with_queries(installed_dsn, take) == []
        await pgqueuers.with_queries(
            installed_dsn, lambda queries: queries.set_schedule_queued({theirs.id})
        )
        assert len(await pgqueuers.with_queries(installed_dsn, take)) == 1

        # A pause between two runs of theirs: the end of the last one was before.
        await pgqueuers.with_queries(
            installed_dsn, lambda queries: queries.set_schedule_queued({theirs.id})
        )
        await store.pause(entrypoints=["work"])
        await store.resume(entrypoints=["work"])
        assert (await row(store)).status == "queued"
