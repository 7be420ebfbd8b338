"""Commands that only look: `queue`, `jobs`, `log`, `statistics`, `failed`, `stale`, `workers`,
`backlog`; they know `Queries`, no SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import click

from pgq_trio.cli.ages import AGE
from pgq_trio.cli.database import ask
from pgq_trio.cli.options import limit_option
from pgq_trio.cli.output import as_data, echo_json, json_option, local_time, show
from pgq_trio.cli.place import Place, place_options
from pgq_trio.client.queries import Queries
from pgq_trio.models import Job, Log
from pgq_trio.types import JobStatus


@click.command()
@place_options
@json_option
def queue(place: Place, as_json: bool) -> None:
    """Count the jobs by entrypoint, priority and status.

    `enqueue` is what puts a job into the queue.
    """
    found = ask(place, Queries.queue_size)
    if as_json:
        echo_json([as_data(row) for row in found])
        return
    rows = [(row.entrypoint, row.priority, row.status, row.count) for row in found]
    show("queue", ["entrypoint", "priority#", "status", "jobs#"], rows, none="the queue is empty")


@click.command("jobs")
@place_options
@json_option
@limit_option
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Rows to skip.")
@click.option("--entrypoint", "entrypoints", metavar="NAME", multiple=True, help="Only of these.")
@click.option(
    "--status", "statuses", type=click.Choice(get_args(JobStatus)), multiple=True, help="Likewise."
)
def list_jobs(
    place: Place,
    as_json: bool,
    limit: int,
    offset: int,
    entrypoints: Sequence[str],
    statuses: Sequence[JobStatus],
) -> None:
    """List the jobs of the queue in the order of claims."""

    async def question(queries: Queries) -> list[Job]:
        return await queries.browse_queue(limit, offset, statuses or None, entrypoints or None)

    _show_jobs(ask(place, question), as_json, "jobs", none="no such jobs")


@click.command()
@place_options
@json_option
@limit_option
def failed(place: Place, as_json: bool, limit: int) -> None:
    """List the jobs that are held as failed, the last created first; `requeue` has them go on."""

    async def question(queries: Queries) -> list[Job]:
        return await queries.list_failed_jobs(limit)

    _show_jobs(ask(place, question), as_json, "held jobs", none="no job is held as failed")


def _show_jobs(found: Sequence[Job], as_json: bool, title: str, *, none: str) -> None:
    if as_json:
        echo_json([as_data(job) for job in found])
        return
    columns = ["id#", "entrypoint", "status", "priority#", "attempts#", "created", "due", "bytes#"]
    rows = [
        (
            *(job.id, job.entrypoint, job.status, job.priority, job.attempts),
            *(local_time(job.created), local_time(job.execute_after), len(job.payload or b"")),
        )
        for job in found
    ]
    show(title, columns, rows, none=none)


@click.command()
@place_options
@json_option
@limit_option
@click.option("--job", "job_id", metavar="ID", type=int, help="Only of this job.")
@click.option("--exceptions", is_flag=True, help="Only failures, the newest first.")
def log(place: Place, as_json: bool, limit: int, job_id: int | None, exceptions: bool) -> None:
    """Show the newest changes of jobs, oldest first; with --json tracebacks as well."""
    if exceptions and job_id is not None:
        raise click.UsageError("--job and --exceptions exclude each other")

    async def question(queries: Queries) -> list[Log]:
        if exceptions:
            return await queries.exception_logs(limit)
        return await queries.queue_log(job_id=job_id, limit=limit)

    found = ask(place, question)
    if as_json:
        echo_json([as_data(row) for row in found])
        return
    rows = [
        (local_time(row.created), row.job_id, row.entrypoint, row.status, row.priority, _error(row))
        for row in found
    ]
    columns = ["when", "job#", "entrypoint", "status", "priority#", "exception"]
    show("log", columns, rows, none="no log rows")


def _error(row: Log) -> str:
    record = row.traceback
    return "" if record is None else f"{record.exception_type}: {record.exception_message}"


@click.command()
@place_options
@json_option
@limit_option
@click.option("--last", type=AGE, help="Only what happened within this time, such as 15m or 7d.")
def statistics(place: Place, as_json: bool, limit: int, last: float | None) -> None:
    """Fold the log into the statistics and show them, newest first."""
    found = ask(place, lambda queries: queries.log_statistics(limit, last))
    if as_json:
        echo_json([as_data(row) for row in found])
        return
    rows = [
        (local_time(row.created), row.count, row.entrypoint, row.status, row.priority)
        for row in found
    ]
    columns = ["second", "count#", "entrypoint", "status", "priority#"]
    show("statistics", columns, rows, none="no statistics")


@click.command()
@place_options
@json_option
@limit_option
@click.option(
    *("--threshold", "-t"),
    type=AGE,
    default=300,
    show_default=True,
    help="Without a heartbeat for so long, in seconds, or such as 15m.",
)
def stale(place: Place, as_json: bool, limit: int, threshold: float) -> None:
    """List claimed jobs whose worker has been silent for too long, the oldest first."""
    found = ask(place, lambda queries: queries.stale_jobs(threshold, limit))
    if as_json:
        echo_json([as_data(row) for row in found])
        return
    rows = [
        (
            *(row.id, row.entrypoint, row.queue_manager_id, local_time(row.heartbeat)),
            round(row.seconds_since_heartbeat),
        )
        for row in found
    ]
    columns = ["id#", "entrypoint", "worker", "last heartbeat", "seconds ago#"]
    show("stale jobs", columns, rows, none="no stale jobs")


@click.command()
@place_options
@json_option
def workers(place: Place, as_json: bool) -> None:
    """List the workers that hold jobs now; an idle one does not show."""
    found = ask(place, Queries.active_workers)
    if as_json:
        echo_json([as_data(row) for row in found])
        return
    rows = [
        (
            *(row.queue_manager_id, row.active_jobs),
            *(local_time(row.oldest_heartbeat), local_time(row.newest_heartbeat)),
            ", ".join(row.entrypoints),
        )
        for row in found
    ]
    columns = ["worker", "jobs#", "oldest heartbeat", "newest heartbeat", "entrypoints"]
    show("workers", columns, rows, none="no worker holds a job")


@click.command()
@place_options
@json_option
def backlog(place: Place, as_json: bool) -> None:
    """Show how many jobs of each entrypoint are queued, and for how long."""
    found = ask(place, Queries.queue_age)
    if as_json:
        echo_json([as_data(row) for row in found])
        return
    rows = [
        (
            *(row.entrypoint, row.queued_count, local_time(row.oldest_created)),
            *(round(row.oldest_age_seconds), round(row.avg_age_seconds)),
        )
        for row in found
    ]
    columns = ["entrypoint", "queued#", "oldest", "oldest age in s#", "average age in s#"]
    show("backlog", columns, rows, none="no job is queued")
