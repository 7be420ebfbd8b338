"""`install`, `upgrade`, `uninstall` and `verify`: the objects in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import click

from pgq_trio.cli.database import ask
from pgq_trio.cli.options import durability_option, widen_option
from pgq_trio.cli.output import echo_json, json_option, printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.questions import confirm, yes_option
from pgq_trio.client.queries import Queries
from pgq_trio.models import Migration
from pgq_trio.schema import plan_script
from pgq_trio.types import Durability


def with_durability(queries: Queries, durability: Durability | None) -> Queries:
    """Return queries on the same database whose tables are to be kept otherwise."""
    if durability is None:
        return queries
    settings = queries.settings.with_changes(durability=durability)
    return Queries(queries.driver, settings=settings)


@click.command()
@place_options
@durability_option
def install(place: Place, durability: Durability | None) -> None:
    """Create the tables and all that belongs to them; leaves alone what is there.

    Durability is PGQUEUER_DURABILITY's if it is not given, else durable.
    """
    ask(place, lambda queries: with_durability(queries, durability).install(), may_create=True)
    click.echo("installed")


@click.command()
@place_options
@click.option("--plan", is_flag=True, help="Print the SQL that would be run, and run none.")
@widen_option
@json_option
def upgrade(place: Place, plan: bool, widen_ids: bool, as_json: bool) -> None:
    """Bring an older installation, PgQueuer's as well, up to this release.

    All or nothing; rows stay as they are. Where ids are widened or an index is built, which the
    plan shows, workers and producers wait until it is done.
    """
    act = Queries.plan_upgrade if plan else Queries.upgrade
    steps = ask(place, lambda queries: act(queries, widen_ids=widen_ids))
    if as_json:
        echo_json([asdict(step) for step in steps])
    elif plan:
        click.echo(plan_script(steps))
    else:
        _report(steps)


def _report(steps: Sequence[Migration]) -> None:
    for step in steps:
        click.echo(f"applied {step.number}: {step.name}")
    click.echo("upgraded" if steps else "up to date")


@click.command()
@place_options
@yes_option
def uninstall(place: Place, yes: bool) -> None:
    """Drop the tables with all jobs, log rows and schedules in them."""
    with place.in_environment():
        table = printable(place.settings().queue_table)
    question = f"Drop the queue {table!r} with all its jobs, log rows and schedules?"
    confirm(question, yes=yes, done="dropped")
    ask(place, Queries.uninstall)
    click.echo("uninstalled")


@click.command()
@place_options
@click.option(
    "--expect",
    type=click.Choice(["present", "absent"]),
    default="present",
    show_default=True,
    help="What has to be true of the objects.",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context, place: Place, expect: Literal["present", "absent"], as_json: bool
) -> None:
    """Name each object that is missing or differs, and the command that mends it.

    With `--expect absent`, name each that is there. Exits with 1 if there is any.
    """
    problems = ask(place, lambda queries: queries.verify(expect=expect))
    if as_json:
        echo_json({"ok": not problems, "problems": problems})
    else:
        good = "every object is in place" if expect == "present" else "no object is there"
        for line in problems or [f"ok: {good}"]:
            click.echo(printable(line))
    if problems:
        ctx.exit(1)
