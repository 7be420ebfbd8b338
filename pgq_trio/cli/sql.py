"""`sql`: prints the SQL of what other commands do, for whoever applies it themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import get_args

import click

from pgq_trio.cli.options import (
    durability_argument,
    durability_option,
    rollback_option,
    widen_option,
)
from pgq_trio.cli.place import Place, place_options
from pgq_trio.schema import (
    Duty,
    autovacuum_statements,
    durability_statements,
    grant_statements,
    install_statements,
    script,
    uninstall_statements,
    upgrade_statements,
)
from pgq_trio.settings import Settings
from pgq_trio.types import Durability

_APPLY = "apply it with `psql -1 -v ON_ERROR_STOP=1`: in one transaction, up to the first error"


@click.group()
@place_options
def sql(place: Place) -> None:
    """Print SQL instead of running it; no command of this group connects to a database.

    Names are those of --prefix, --schema and the environment. Every statement ends with a
    semicolon and is made to run once or more, in psql or as a step of a tool for migrations.
    """


def _print(
    place: Place, what: str, statements: Callable[[Settings], Sequence[str]], **changes: object
) -> None:
    with place.in_environment():
        settings = place.settings().with_changes(**changes)
    # repr() keeps a line break in a name from ending the comment.
    names = f"queue table {settings.queue_table!r}, schema {settings.schema!r}"
    remarks = [f"pgq-trio {version('pgq-trio')}: {what}; {names}", _APPLY]
    try:
        text = script(statements(settings), *remarks)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    click.echo(text)


def _changes(durability: Durability | None) -> dict[str, object]:
    return {} if durability is None else {"durability": durability}


@sql.command()
@place_options
@durability_option
def install(place: Place, durability: Durability | None) -> None:
    """SQL that creates every object and leaves alone what is there."""
    _print(place, "install", install_statements, **_changes(durability))


@sql.command()
@place_options
@durability_option
@widen_option
def upgrade(place: Place, durability: Durability | None, widen_ids: bool) -> None:
    """SQL that brings any older installation up to this release.

    It names every object again behind a condition; what one database really needs is printed by
    `pgq-trio upgrade --plan`. Tables that are there keep their durability.
    """
    _print(
        place,
        "upgrade",
        lambda settings: upgrade_statements(settings, widen_ids=widen_ids),
        **_changes(durability),
    )


@sql.command()
@place_options
def uninstall(place: Place) -> None:
    """SQL that drops every object with all jobs, log rows and schedules."""
    _print(place, "uninstall", uninstall_statements)


@sql.command()
@place_options
@durability_argument
def durability(place: Place, durability: Durability) -> None:
    """SQL that switches tables between logged and unlogged; rows stay."""
    _print(place, f"durability {durability}", durability_statements, durability=durability)


@sql.command()
@place_options
@rollback_option
def autovac(place: Place, rollback: bool) -> None:
    """SQL that tunes autovacuum for a queue, or takes that back."""
    _print(place, "autovac", lambda settings: autovacuum_statements(settings, rollback=rollback))


@sql.command()
@place_options
@click.argument("duty", type=click.Choice(get_args(Duty)))
@click.argument("role")
def grant(place: Place, duty: Duty, role: str) -> None:
    """SQL that gives a role what it needs to be a worker, a producer or a monitor.

    The owner of the tables applies it, after `install`; ROLE is a name as it is, without quotes.
    """
    _print(place, f"grant {duty}", lambda settings: grant_statements(settings, duty, role))
