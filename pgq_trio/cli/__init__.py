"""The command `pgq-trio`: one group, one file for each group of commands; it knows no SQL."""

from __future__ import annotations

from importlib.metadata import version

import click

from pgq_trio.cli.changes import cancel, clear, clear_log, clear_statistics, requeue
from pgq_trio.cli.demo import demo
from pgq_trio.cli.inspect import backlog, failed, list_jobs, log, queue, stale, statistics, workers
from pgq_trio.cli.jobs import enqueue
from pgq_trio.cli.listen import listen
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.program import Program
from pgq_trio.cli.prune import prune
from pgq_trio.cli.run import run
from pgq_trio.cli.schedules import schedules
from pgq_trio.cli.schema import install, uninstall, upgrade, verify
from pgq_trio.cli.sql import sql
from pgq_trio.cli.status import status
from pgq_trio.cli.tables import autovac, durability

__all__ = ["main"]


@click.group(cls=Program, invoke_without_command=True)
@click.version_option(version("pgq-trio"), prog_name="pgq-trio")
@place_options
@click.pass_context
def main(ctx: click.Context, place: Place) -> None:  # noqa: ARG001 - the commands find it in ctx
    """A PostgreSQL job queue and cron scheduler for Trio and asyncio.

    The database is the one of --dsn, else of PGQUEUER_DSN, PGDSN or libpq's own PG* variables.
    With --embedded it is a private PostgreSQL that is started when it is needed; its data are
    kept in --data, which is .pgq-trio/data of the current directory if it is not given.
    The options that say where the queue is may stand before or behind the command; a later one
    wins.

    \b
    Exit codes: 0 done; 1 it failed, with one line on standard error; 2 it was called in a wrong
    way; 128 + number when a signal ended it (130 for Ctrl-C). `run` and `demo` answer the first
    Ctrl-C or SIGTERM with a drain and exit with 0; a second one cancels the jobs that still run.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


for _command in (install, upgrade, uninstall, verify, durability, autovac, sql):
    main.add_command(_command)
for _command in (run, enqueue, status, schedules, demo):
    main.add_command(_command)
for _command in (queue, list_jobs, log, statistics, failed, stale, workers, backlog, listen):
    main.add_command(_command)
for _command in (requeue, cancel, clear, clear_log, clear_statistics, prune):
    main.add_command(_command)
