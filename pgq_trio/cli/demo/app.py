"""One run of the demo, from opening the application to closing its resources."""

from __future__ import annotations

from functools import partial
from typing import cast

from pgq_trio.app import PgQueuer
from pgq_trio.cli.database import open_session
from pgq_trio.cli.demo.conductor import Conductor
from pgq_trio.cli.demo.names import Options
from pgq_trio.cli.demo.screen import Screen
from pgq_trio.cli.demo.totals import Totals, drop, make_resources, reserve
from pgq_trio.cli.demo.watch import Watch
from pgq_trio.cli.program import Failure
from pgq_trio.cli.runtime import Interrupts
from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.settings import Settings


async def run_demo(
    dsn: str, settings: Settings, options: Options, screen: Screen, interrupts: Interrupts
) -> None:
    """Open the application, do what there is to do, and show what came of it.

    Raises:
        Failure: the totals differ from the independent count.
    """
    await _prepare(dsn, settings, screen, fresh=options.fresh)
    watch = Watch()
    async with PgQueuer.open(
        dsn,
        resources=partial(make_resources, dsn, settings, screen.say),
        settings=settings,
        observers=[watch],
    ) as pgq:
        totals = cast("Totals", pgq.resources["totals"])
        conductor = Conductor(pgq, options, screen, watch, totals)
        with interrupts.taken_by(conductor.on_signal):
            await conductor.run()
        equal = await conductor.report()
    screen.say("resources closed")
    if not equal:
        raise Failure("the shared totals differ from the independent count")


async def _prepare(dsn: str, settings: Settings, screen: Screen, *, fresh: bool) -> None:
    async with open_session(dsn) as session:
        await reserve(session, settings)
        queries = Queries(PsycopgDriver(session), settings=settings)
        if fresh:
            await queries.uninstall()
            await drop(session, settings)
        await queries.install()
    screen.say(f"installed: a queue of the demo's own, its names begin with {settings.prefix}")
