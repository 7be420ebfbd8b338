"""`run module:factory`: a worker process, from its settings to its last signal."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict, cast

import click

from pgq_trio.cli.database import embedded_beside
from pgq_trio.cli.factories import Application, Factory, load_factory, open_application
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.runtime import Backend, Interrupts, backend_option, execute
from pgq_trio.types import QueueExecutionMode
from pgq_trio.worker.options import RunArguments, RunOptions

logger: logging.Logger = logging.getLogger("pgq_trio.cli")

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
LOG_LEVELS = ("debug", "info", "warning", "error")

_COUNT = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)


class _Options(TypedDict, total=False):
    """What the command line gave of `RunArguments`; None where it gave nothing."""

    mode: str | None
    batch_size: int | None
    max_concurrent_jobs: int | None
    dequeue_timeout: float | None
    heartbeat_timeout: float | None
    grace_period: float | None


@click.command()
@place_options
@backend_option
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option("--mode", type=click.Choice([mode.value for mode in QueueExecutionMode]))
@click.option("--batch-size", type=_COUNT, help="Upper bound for one claim.")
@click.option("--max-concurrent-jobs", type=_COUNT, help="How many jobs run at once.")
@click.option("--dequeue-timeout", type=_SECONDS, help="Longest time between two claims.")
@click.option("--heartbeat-timeout", type=_SECONDS, help="When leases expire; one for a fleet.")
@click.option("--grace-period", type=_SECONDS, help="What running jobs get after a signal.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
def run(place: Place, backend: Backend, factory: str, log_level: str, **options: Any) -> None:
    """Run the jobs and schedules of an application.

    MODULE:FACTORY names an async context manager (or a function that returns one) which yields a
    PgQueuer, or a function, async or not, that returns a PgQueuer. The current directory is
    importable. The connection options reach it as PGQUEUER_DSN, PGQUEUER_PREFIX and
    PGQUEUER_SCHEMA, where `PgQueuer.open()` finds them; with --embedded the server runs as long
    as this command.

    All times are seconds. The first Ctrl-C or SIGTERM drains: nothing more is claimed, running
    jobs may end within the grace period, and the command exits with 0. The second one cancels
    them now, and it exits with 0 as well: interrupted jobs are in the queue again.
    """
    arguments = _arguments(cast("_Options", options))
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT)
    beside: AbstractContextManager[str | None] = (
        embedded_beside(place.directory, backend) if place.is_embedded else nullcontext()
    )
    with beside as dsn, place.in_environment(dsn):
        place.settings()
        made = load_factory(factory)

        async def command(interrupts: Interrupts) -> None:
            await _run(factory, made, arguments, interrupts)

        execute(command, backend=backend)


def _arguments(options: _Options) -> RunArguments:
    given = {name: value for name, value in options.items() if value is not None}
    arguments = cast("RunArguments", given)
    try:
        RunOptions.check(**arguments)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    arguments["handle_signals"] = False
    return arguments


async def _run(
    name: str, factory: Factory, arguments: RunArguments, interrupts: Interrupts
) -> None:
    async with open_application(name, factory) as application:
        shutdown = _Shutdown(application)
        with interrupts.taken_by(shutdown):
            logger.info("%s runs", name)
            await application.run(**arguments)
    logger.info("%s has ended", name)


class _Shutdown:
    """What a signal does while the application is open: drain, then cancel."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._asked = False

    def __call__(self) -> None:
        if self._asked:
            logger.info("asked again to stop: cancelling the jobs that run")
            self._application.request_shutdown(0)
        else:
            logger.info("asked to stop: running jobs may end; once more cancels them")
            self._application.request_shutdown()
        self._asked = True
