"""`enqueue`: asking for work from a shell, one job or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import BinaryIO, Literal, cast, get_args

import click

from pgq_trio.cli.bulk import (
    LONGEST_LINE,
    Account,
    Reader,
    Row,
    enqueue_batches,
    object_of,
    payload_of,
)
from pgq_trio.cli.database import ask
from pgq_trio.cli.lines import Lines, standard_input
from pgq_trio.cli.output import echo_json, json_option
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.program import Failure
from pgq_trio.client.queries import Queries
from pgq_trio.errors import DuplicateJobError
from pgq_trio.model.enqueue import ExecuteAfter, new_jobs
from pgq_trio.types import JobId, OnConflict


@click.command()
@place_options
@json_option
@click.argument("entrypoint")
@click.option("--payload", metavar="TEXT", help="The payload.")
@click.option("--payload-file", type=click.File("rb"), help="Read it from a file, - for stdin.")
@click.option(
    "--stdin",
    "source",
    flag_value="lines",
    help="One job for each line of standard input, which is its payload.",
)
@click.option(
    "--jsonl",
    "source",
    flag_value="jsonl",
    help="Likewise; a line is a JSON object, see below.",
)
@click.option("--priority", type=int, default=0, show_default=True, help="Higher runs first.")
@click.option("--delay", metavar="SECONDS", type=click.FloatRange(min=0), help="Not before then.")
@click.option("--at", metavar="ISO", help="Not before this time, such as 2030-01-31T08:00Z.")
@click.option("--dedupe-key", metavar="TEXT", help="At most one such job waits or runs at a time.")
@click.option("--header", "headers", metavar="K=V", multiple=True, help="May be given repeatedly.")
@click.option(
    "--on-conflict",
    type=click.Choice(get_args(OnConflict)),
    default="raise",
    show_default=True,
    help="What to do when the dedupe key is taken.",
)
def enqueue(
    place: Place,
    as_json: bool,
    entrypoint: str,
    payload: str | None,
    payload_file: BinaryIO | None,
    source: Literal["lines", "jsonl"] | None,
    priority: int,
    delay: float | None,
    at: str | None,
    dedupe_key: str | None,
    headers: Sequence[str],
    on_conflict: OnConflict,
) -> None:
    """Enqueue one job of ENTRYPOINT and print its id, or many.

    With --jsonl an object may have payload (a text is taken as it is, other values as JSON),
    priority, execute_after (seconds, or a time as for --at), dedupe_key and headers; the options
    stand in for what it lacks. Many jobs are written in batches, and no line waits for others for
    longer than a second. The first malformed line ends it: all lines before are enqueued then, and
    none from there on. Interrupted, it says up to which line it came.
    """
    data = _payload(payload, payload_file)
    after = _execute_after(delay, at)
    pairs = dict(map(_header, headers)) or None
    try:  # refused before anything is opened
        new_jobs(entrypoint, data, priority, after, dedupe_key, pairs)
    except (TypeError, ValueError) as exc:
        raise click.UsageError(str(exc)) from exc
    if source is not None:
        if data is not None or dedupe_key is not None:
            raise click.UsageError(
                "--payload, --payload-file and --dedupe-key are for one job, not for many"
            )
        common = Row(priority=priority, execute_after=after, headers=pairs)
        _enqueue_many(place, as_json, entrypoint, source, common, on_conflict)
        return

    async def question(queries: Queries) -> list[JobId | None]:
        return await queries.enqueue(
            entrypoint, data, priority, after, dedupe_key, pairs, on_conflict=on_conflict
        )

    try:
        ids = ask(place, question)
    except DuplicateJobError as exc:
        raise Failure(
            f"a job with the dedupe key {dedupe_key!r} is queued or running already, so nothing "
            "was enqueued; with --on-conflict skip that is no error"
        ) from exc
    if as_json:
        echo_json({"ids": ids})
    elif ids[0] is None:
        click.echo(f"skipped: a job with the dedupe key {dedupe_key!r} is queued or running")
    else:
        click.echo(f"enqueued job {ids[0]}")


def _enqueue_many(
    place: Place,
    as_json: bool,
    entrypoint: str,
    source: Literal["lines", "jsonl"],
    common: Row,
    on_conflict: OnConflict,
) -> None:
    parse = payload_of if source == "lines" else object_of
    reader = Reader(Lines(standard_input(), LONGEST_LINE), entrypoint, parse, common)
    account = Account()

    async def question(queries: Queries) -> None:
        await enqueue_batches(queries, reader, entrypoint, on_conflict, account)

    ids = account.ids
    try:
        ask(place, question)
    except click.exceptions.Exit:  # a signal
        click.echo(f"Interrupted: {account.text()}", err=True)
        if as_json:
            echo_json({"ids": ids})
        raise
    skipped = ids.count(None)
    if as_json:
        echo_json({"ids": ids})
    else:
        hint = f", skipped {skipped}" if skipped else ""
        click.echo(f"enqueued {len(ids) - skipped} jobs{hint}")


def _payload(text: str | None, file: BinaryIO | None) -> bytes | None:
    if text is not None and file is not None:
        raise click.UsageError("--payload and --payload-file exclude each other")
    if file is not None:
        return file.read()
    return None if text is None else os.fsencode(text)  # the very bytes of the command line


def _execute_after(delay: float | None, at: str | None) -> ExecuteAfter | None:
    if delay is not None and at is not None:
        raise click.UsageError("--delay and --at exclude each other")
    if at is not None:
        return _time(at)
    if delay is None:
        return None
    try:
        return timedelta(seconds=delay)
    except (OverflowError, ValueError) as exc:
        raise click.UsageError(f"--delay {delay:g} is no time anybody can wait") from exc


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.UsageError(
            f"--at {text!r} is no time in ISO 8601, such as 2030-01-31T08:00:00+01:00"
        ) from exc
    if at.utcoffset() is None:
        raise click.UsageError(f"--at {text!r} has no time zone, as in 2030-01-31T08:00:00Z")
    return at


def _header(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--header {text!r} is not of the form K=V")
    return key, cast("object", value)
