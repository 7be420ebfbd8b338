"""`status`: what is in the queue now, on one page; it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
import click

from pgq_trio.cli.database import ask, open_session, with_dsn
from pgq_trio.cli.outages import through_outages
from pgq_trio.cli.output import console, echo_json, json_option, local_time, printable, table
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.schedules import state_of
from pgq_trio.client.queries import Queries
from pgq_trio.db import PsycopgDriver
from pgq_trio.errors import SchemaMissing
from pgq_trio.models import Log, QueueStatistics, Schedule
from pgq_trio.settings import Settings

#: Among so many of the newest log rows exceptions are looked for.
LOOK_BACK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The queue at one moment; log rows are the newest first."""

    problems: list[str]
    queue: list[QueueStatistics] = field(default_factory=list[QueueStatistics])
    schedules: list[Schedule] = field(default_factory=list[Schedule])
    log: list[Log] = field(default_factory=list[Log])
    exceptions: list[Log] = field(default_factory=list[Log])


@click.command()
@place_options
@json_option
@click.option(
    "--log", "rows", type=click.IntRange(0), default=10, show_default=True, help="How many rows."
)
@click.option(
    "--watch",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    help="Look again and again, with so long between two looks, until interrupted.",
)
def status(place: Place, as_json: bool, rows: int, watch: float | None) -> None:
    """Show the queue, the schedules and the last rows of the log.

    Without tables it exits with 1, and with --json prints a document all the same. With --watch it
    goes on when the server comes back after a restart.
    """
    if as_json and watch is not None:
        raise click.UsageError("--json prints one document, so it cannot --watch")
    if watch is not None:
        _watch(place, rows, watch)
        return

    async def question(queries: Queries) -> Status:
        if as_json and await queries.backend.schema.missing():
            echo_json(as_data(Status(problems=await queries.verify())))
        return await look(queries, rows)

    found = ask(place, question)
    if as_json:
        echo_json(as_data(found))
    else:
        show(found)


def _watch(place: Place, rows: int, pause: float) -> None:
    async def on_dsn(dsn: str, settings: Settings) -> None:
        async def session(serves: Callable[[], None]) -> None:
            async with open_session(dsn) as connection:
                queries = Queries(PsycopgDriver(connection), settings=settings)
                while True:
                    found = await look(queries, rows)
                    serves()
                    console().clear()  # of a terminal only
                    show(found)
                    await anyio.sleep(pause)

        await through_outages(session)

    with_dsn(place, on_dsn)


async def look(queries: Queries, rows: int) -> Status:
    """Read everything `status` shows.

    Raises:
        SchemaMissing: there is no queue.
    """
    missing = await queries.backend.schema.missing()
    if missing:
        raise SchemaMissing(missing)
    log = (await queries.queue_log(limit=max(rows, LOOK_BACK)))[::-1]
    return Status(
        problems=await queries.verify(),
        queue=await queries.queue_size(),
        schedules=await queries.peek_schedule(),
        log=log[:rows],
        exceptions=[row for row in log if row.traceback is not None][:rows],
    )


def as_data(found: Status) -> dict[str, object]:
    """Return what JSON can hold."""
    return {
        "schema": {"ok": not found.problems, "problems": found.problems},
        "queue": [
            {
                "entrypoint": row.entrypoint,
                "status": row.status,
                "priority": row.priority,
                "count": row.count,
            }
            for row in found.queue
        ],
        "schedules": [
            {
                "id": row.id,
                "entrypoint": row.entrypoint,
                "expression": row.expression,
                "status": state_of(row),
                "next_run": row.next_run.isoformat(),
                "last_run": None if row.last_run is None else row.last_run.isoformat(),
            }
            for row in found.schedules
        ],
        "log": [_log_data(row) for row in found.log],
        "exceptions": [_log_data(row) for row in found.exceptions],
    }


def _log_data(row: Log) -> dict[str, object]:
    record = row.traceback
    exception = None
    if record is not None:
        exception = {
            "type": record.exception_type,
            "message": record.exception_message,
            "traceback": record.traceback,
        }
    return {
        "created": row.created.isoformat(),
        "job_id": row.job_id,
        "status": row.status,
        "priority": row.priority,
        "entrypoint": row.entrypoint,
        "exception": exception,
    }


def show(found: Status) -> None:
    """Print it for people."""
    out = console()
    for line in found.problems or ["every object is in place"]:
        out.print(f"schema: {printable(line)}", markup=False)
    queue = [(row.entrypoint, row.status, row.priority, row.count) for row in found.queue]
    schedules = [
        (
            row.entrypoint,
            row.expression,
            state_of(row),
            local_time(row.next_run),
            local_time(row.last_run),
        )
        for row in found.schedules
    ]
    sections: list[tuple[str, list[str], Sequence[Sequence[object]]]] = [
        ("queue", ["entrypoint", "status", "priority#", "jobs#"], queue),
        ("schedules", ["entrypoint", "expression", "status", "next run", "last run"], schedules),
        ("last changes", ["when", "job#", "entrypoint", "status"], list(map(_change, found.log))),
        (
            "last exceptions",
            ["when", "job#", "entrypoint", "status", "exception"],
            [(*_change(row), _exception(row)) for row in found.exceptions],
        ),
    ]
    for title, columns, rows in sections:
        if rows:
            out.print()
            out.print(table(title, columns, rows))
        else:
            out.print(f"{title}: none")


def _change(row: Log) -> tuple[object, ...]:
    return (local_time(row.created), row.job_id, row.entrypoint, row.status)


def _exception(row: Log) -> str:
    record = row.traceback
    return "" if record is None else f"{record.exception_type}: {record.exception_message}"
