"""`durability` and `autovac`: how the tables are kept."""

from __future__ import annotations

import click

from pgq_trio.cli.database import ask
from pgq_trio.cli.options import durability_argument, rollback_option
from pgq_trio.cli.output import echo_json, json_option, printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.questions import confirm, yes_option
from pgq_trio.client.queries import Queries
from pgq_trio.types import Durability


@click.command()
@place_options
@durability_argument
@yes_option
@json_option
def durability(place: Place, durability: Durability, yes: bool, as_json: bool) -> None:
    """Switch tables between logged and unlogged; rows stay.

    volatile: all tables unlogged. balanced: queue and schedules logged, log and statistics not.
    durable: all logged. An unlogged table is faster to write to, empty after a crash of the server
    and absent on its replicas. Each table that changes is rewritten, and locked meanwhile.

    Which tables differ from PGQUEUER_DURABILITY is said by `verify`; workers run either way.
    """
    plan = ask(place, lambda queries: queries.plan_durability(durability))
    if any(statement.endswith(" UNLOGGED") for statement in plan):
        for statement in plan:
            click.echo(printable(statement), err=True)
        confirm(
            "Unlogged tables are empty after a crash of the server. Go on?", yes=yes, done="changed"
        )
    changed = ask(place, lambda queries: queries.alter_durability(durability))
    if as_json:
        echo_json({"durability": durability, "changed": changed})
        return
    for statement in changed:
        click.echo(printable(statement))
    click.echo(durability if changed else f"{durability} already")


@click.command()
@place_options
@rollback_option
@json_option
def autovac(place: Place, rollback: bool, as_json: bool) -> None:
    """Have autovacuum come as often as a queue needs it; `sql autovac` shows what is set."""
    if rollback:
        ask(place, Queries.optimize_autovacuum_rollback)
    else:
        ask(place, Queries.optimize_autovacuum)
    if as_json:
        echo_json({"autovacuum": "defaults" if rollback else "tuned"})
        return
    click.echo("back to the defaults" if rollback else "tuned")
