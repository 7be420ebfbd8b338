"""`install`, `uninstall` and `verify`: the objects in the database."""

from __future__ import annotations

import click

from pgq_trio.cli.database import ask
from pgq_trio.cli.output import echo_json, json_option, printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.program import Failure
from pgq_trio.client.queries import Queries


@click.command()
@place_options
def install(place: Place) -> None:
    """Create the tables and all that belongs to them; leaves alone what is there."""
    ask(place, Queries.install)
    click.echo("installed")


@click.command()
@place_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def uninstall(place: Place, yes: bool) -> None:
    """Drop the tables with all jobs, log rows and schedules in them."""
    with place.in_environment():
        table = printable(place.settings().queue_table)
    question = f"Drop the queue {table!r} with all its jobs, log rows and schedules?"
    try:
        sure = yes or click.confirm(question, err=True)
    except click.Abort as exc:
        if isinstance(exc.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)  # ends the line of the question
        raise Failure("nobody confirmed, so nothing was dropped; --yes does not ask") from exc
    if not sure:
        raise Failure("not confirmed, so nothing was dropped")
    ask(place, Queries.uninstall)
    click.echo("uninstalled")


@click.command()
@place_options
@json_option
@click.pass_context
def verify(ctx: click.Context, place: Place, as_json: bool) -> None:
    """Name each object that is missing or differs, and the command that mends it.

    Exits with 1 if there is any.
    """
    problems = ask(place, Queries.verify)
    if as_json:
        echo_json({"ok": not problems, "problems": problems})
    else:
        for line in problems or ["ok: every object is in place"]:
            click.echo(printable(line))
    if problems:
        ctx.exit(1)
