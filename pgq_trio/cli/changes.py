"""Commands that change what is in the queue: `requeue`, `cancel`, `clear`, `clear-log`,
`clear-statistics`; they know `Queries`, no SQL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click

from pgq_trio.cli.database import ask
from pgq_trio.cli.output import echo_json, json_option, printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.progress import progress_bar
from pgq_trio.cli.questions import confirm, yes_option
from pgq_trio.client.queries import Queries
from pgq_trio.types import JobId

#: Jobs of one page, and of one change.
PAGE = 1000


_Command = TypeVar("_Command", bound=Callable[..., Any])


def _ids_argument(*, required: bool) -> Callable[[_Command], _Command]:
    return click.argument(
        "ids", metavar="ID...", type=click.IntRange(1, 2**63 - 1), nargs=-1, required=required
    )


@click.command()
@place_options
@json_option
@_ids_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="All jobs that are held as failed.")
@click.pass_context
def requeue(
    ctx: click.Context, /, place: Place, as_json: bool, ids: Sequence[int], everything: bool
) -> None:
    """Queue jobs again that are held as failed, as if they had never run.

    Exits with 1 if one of them could not be: it is not held, or another job has its dedupe key.
    """
    if everything == bool(ids):
        raise click.UsageError("give the ids of jobs, or --all")

    async def question(queries: Queries) -> tuple[Sequence[JobId], set[JobId]]:
        wanted = await _held(queries) if everything else list(dict.fromkeys(ids))
        done: set[JobId] = set()
        with progress_bar("requeued", len(wanted)) as progress:
            for start in range(0, len(wanted), PAGE):
                done |= await queries.requeue_jobs(wanted[start : start + PAGE])
                progress(start + PAGE)
        return wanted, done

    wanted, done = ask(place, question)
    why = "not held as failed, or their dedupe keys are taken"
    _report(ctx, "requeued", wanted, done, why, as_json)


async def _held(queries: Queries) -> list[JobId]:
    ids: list[JobId] = []
    while page := await queries.browse_queue(PAGE, len(ids), ["failed"]):
        ids += [job.id for job in page]
    return ids


@click.command()
@place_options
@json_option
@_ids_argument(required=True)
@click.pass_context
def cancel(ctx: click.Context, /, place: Place, as_json: bool, ids: Sequence[int]) -> None:
    """Cancel jobs: queued ones are gone, the handlers of running ones are cancelled.

    Exits with 1 if one of them is not in the queue; the others are cancelled then as well.
    """
    wanted = list(dict.fromkeys(ids))
    done = ask(place, lambda queries: queries.mark_job_as_cancelled(wanted))
    _report(ctx, "cancelled", wanted, done, "not in the queue", as_json)


def _report(
    ctx: click.Context,
    verb: str,
    wanted: Sequence[JobId],
    done: set[JobId],
    why: str,
    as_json: bool,
) -> None:
    others = [job_id for job_id in wanted if job_id not in done]
    if as_json:
        ids = [job_id for job_id in wanted if job_id in done]
        echo_json({"ids": ids, "others": others})
    else:
        click.echo(f"{verb} {len(done)} of {len(wanted)} jobs")
        if others:
            named = ", ".join(map(str, others[:20])) + (", ..." if len(others) > 20 else "")
            click.echo(f"{why}: {named}")
    if others:
        ctx.exit(1)


_Change = Callable[[Queries, Sequence[str] | None], Awaitable[int]]


def _clearing(name: str, what: str, doc: str, change: _Change) -> click.Command:
    """Return a command that deletes what belongs to some entrypoints, or all of it."""

    @click.command(name, help=doc)
    @place_options
    @json_option
    @yes_option
    @click.option(
        "--entrypoint", "entrypoints", metavar="NAME", multiple=True, help="May be repeated."
    )
    @click.option("--all", "everything", is_flag=True, help="Of all entrypoints.")
    def command(
        place: Place, as_json: bool, yes: bool, entrypoints: Sequence[str], everything: bool
    ) -> None:
        if everything == bool(entrypoints):
            raise click.UsageError("give --entrypoint, once or more, or --all")
        with place.in_environment():
            table = printable(place.settings().queue_table)
        named = ", ".join(map(printable, entrypoints)) or "all entrypoints"
        confirm(f"Delete the {what} of {named} from the queue {table!r}?", yes=yes, done="deleted")
        deleted = ask(place, lambda queries: change(queries, None if everything else entrypoints))
        if as_json:
            echo_json({"deleted": deleted})
        else:
            click.echo(f"deleted {deleted}")

    return command


clear: click.Command = _clearing(
    "clear",
    "jobs",
    "Delete jobs from the queue, also those that run. A worker sees at its next heartbeat (after a "
    "third of heartbeat_timeout at most) that the row of its job is gone, and cancels the handler "
    "only then. `cancel` tells it at once.",
    Queries.clear_queue,
)
clear_log: click.Command = _clearing(
    "clear-log",
    "log rows",
    "Delete the log: all rows, whatever their age. `prune` deletes the old ones.",
    Queries.clear_queue_log,
)
clear_statistics: click.Command = _clearing(
    "clear-statistics",
    "statistics",
    "Delete the counts that the log was folded into.",
    Queries.clear_statistics_log,
)
