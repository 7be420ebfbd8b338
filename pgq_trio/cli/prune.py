"""`prune`: deleting what the history has kept for long enough; it knows `Queries`, no SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import click

from pgq_trio.cli.ages import AGE
from pgq_trio.cli.database import ask
from pgq_trio.cli.output import echo_json, json_option
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.progress import progress_bar
from pgq_trio.cli.questions import confirm, yes_option
from pgq_trio.client.queries import Queries
from pgq_trio.model.retention import FOREVER, Retention
from pgq_trio.types import JobStatus


@click.command()
@place_options
@json_option
@yes_option
@click.option("--older-than", metavar="AGE", type=AGE, help="Of every state, such as 30d or 12h.")
@click.option(
    "--keep",
    metavar="STATE=AGE",
    multiple=True,
    help="Of one state, such as exception=90d or failed=forever; may be repeated.",
)
@click.option("--statistics", metavar="AGE", type=AGE, help="Of the counts as well.")
@click.option("--dry-run", is_flag=True, help="Say about how many rows there are, delete none.")
def prune(
    place: Place,
    as_json: bool,
    yes: bool,
    older_than: float | None,
    keep: Sequence[str],
    statistics: float | None,
    dry_run: bool,
) -> None:
    """Delete old log rows in small batches, whatever else works on the queue.

    A row that the statistics do not count yet is counted before it goes. With the outcome of a
    job all its earlier rows go. Ctrl-C ends it; what is deleted stays deleted.
    """
    ages: dict[str, Any] = dict(map(_state, keep))
    if older_than is None and statistics is None and not ages:
        raise click.UsageError("say what is old: --older-than AGE, --keep STATE=AGE, --statistics")
    retention = Retention(default=older_than, statistics=statistics, **ages)
    about = ask(place, lambda queries: queries.estimate_expired_logs(retention))
    if dry_run:
        _report(as_json, about, key="estimate", text=f"about {about} log rows would be deleted")
        return
    confirm(f"Delete about {about} log rows?", yes=yes, done="deleted")

    async def question(queries: Queries) -> int:
        with progress_bar("deleted", about) as progress:
            return await queries.delete_expired_logs(retention, on_progress=progress)

    deleted = ask(place, question)
    _report(as_json, deleted, key="deleted", text=f"deleted {deleted} log rows")


def _state(text: str) -> tuple[str, object]:
    state, equals, age = text.partition("=")
    if not equals or state not in get_args(JobStatus):
        states = ", ".join(get_args(JobStatus))
        raise click.UsageError(f"--keep {text!r} is not of the form STATE=AGE; states: {states}")
    return state, FOREVER if age == "forever" else AGE(age)


def _report(as_json: bool, count: int, *, key: str, text: str) -> None:
    if as_json:
        echo_json({key: count})
    else:
        click.echo(text)
