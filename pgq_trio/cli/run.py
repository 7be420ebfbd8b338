"""`run module:factory`: a worker process, from its settings to its last signal, or many."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import click

from pgq_trio.cli.factories import parts_of
from pgq_trio.cli.fleet.command import (
    RELOAD_GRACE,
    FleetRequest,
    command_of,
    fleet_options,
    run_parent,
)
from pgq_trio.cli.fleet.supervisor import Fleet
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.process import Process
from pgq_trio.cli.program import DEBUG
from pgq_trio.cli.runtime import Backend, backend_option
from pgq_trio.types import QueueExecutionMode
from pgq_trio.worker.options import RunArguments, RunOptions

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
FLEET_LOG_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

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
@click.argument("arguments", metavar="[-- ARGUMENT...]", nargs=-1)
@click.option("--mode", type=click.Choice([mode.value for mode in QueueExecutionMode]))
@click.option("--batch-size", type=_COUNT, help="Upper bound for one claim.")
@click.option(
    "--max-concurrent-jobs",
    "--max-concurrent-tasks",
    "max_concurrent_jobs",
    type=_COUNT,
    help="How many jobs run at once in one process.",
)
@click.option("--dequeue-timeout", type=_SECONDS, help="Longest time between two claims.")
@click.option("--heartbeat-timeout", type=_SECONDS, help="When leases expire; one for a fleet.")
@click.option("--grace-period", type=_SECONDS, help="What running jobs get after a signal.")
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
)
@fleet_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    place: Place,
    backend: Backend,
    factory: str,
    arguments: Sequence[str],
    log_level: str,
    fleet: FleetRequest,
    **options: Any,
) -> None:
    """Run the jobs and schedules of an application.

    MODULE:FACTORY names an async context manager (or a function that returns one) which yields a
    PgQueuer, or a function, async or not, that returns a PgQueuer. The current directory is
    importable. Arguments after -- reach the function as one list of texts. The connection options
    reach it as PGQUEUER_DSN, PGQUEUER_PREFIX and PGQUEUER_SCHEMA, where `PgQueuer.open()` finds
    them; with --embedded the server runs as long as this command.

    All times are seconds. The first Ctrl-C or SIGTERM drains: nothing more is claimed, running
    jobs may end within the grace period, and the command exits with 0. The second one cancels
    them now, and it exits with 0 as well: interrupted jobs are in the queue again.

    With --processes, --restart-on-failure or --reload the command is a parent that opens no
    connection and owns worker processes. It starts one that fails again, and passes signals on;
    a third signal kills. It exits with 1 when a process fails too often or for a lasting reason
    (nothing is registered, no tables, a wrong password), or had to be killed at the end.
    """
    if fleet.reload and options["grace_period"] is None:
        options["grace_period"] = RELOAD_GRACE
    checked = _arguments(cast("_Options", options))
    parts_of(factory)
    in_fleet = fleet.wants_parent or fleet.lifeline is not None
    logging.basicConfig(
        level=log_level.upper(), format=FLEET_LOG_FORMAT if in_fleet else LOG_FORMAT
    )
    if fleet.wants_parent:
        shared = {"backend": backend, "log_level": log_level, "debug": ctx.meta.get(DEBUG)}
        command = command_of(place, shared | options, factory, arguments, reload=fleet.reload)
        grace_period = RunOptions.check(**checked).grace_period
        directories = [Path.cwd(), *fleet.reload_dirs]
        run_parent(Fleet(command, fleet.options(grace_period), directories), place, backend)
        return
    process = Process(factory, arguments, checked, in_fleet=in_fleet)
    if fleet.lifeline is not None:
        process.hold(fleet.lifeline)
    process.run(place, backend)


def _arguments(options: _Options) -> RunArguments:
    given = {name: value for name, value in options.items() if value is not None}
    arguments = cast("RunArguments", given)
    try:
        RunOptions.check(**arguments)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    arguments["handle_signals"] = False
    return arguments
