"""`schedules`: listing, pausing, resuming, triggering and removing what fires by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

import click
from rich.table import Table

from pgq_trio.abc import Snapshot
from pgq_trio.cli.database import ask
from pgq_trio.cli.options import names_argument
from pgq_trio.cli.output import console, echo_json, json_option, local_time, printable, table
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.program import Failure
from pgq_trio.cli.questions import confirm, yes_option
from pgq_trio.client.queries import Queries
from pgq_trio.models import Schedule

#: A worker that is alive fires within 50 ms; later than this, nobody serves a schedule.
_GRACE = timedelta(seconds=5)
#: A run whose worker was silent for so long is taken over, if there is anybody to do it.
_STALE = timedelta(seconds=30)

_Change: TypeAlias = Callable[[Queries, list[int]], Awaitable[set[int]]]
_PAUSED = "paused"
_STATES = {"canceled": _PAUSED, "picked": "running"}


def state_of(row: Schedule) -> str:
    """Return the word for what a schedule does now: queued, running or paused."""
    return _STATES.get(row.status, row.status)


def is_overdue(row: Schedule, now: datetime) -> bool:
    """Whether a schedule should have fired by now, so that no worker seems to serve it."""
    if row.status == "picked":
        return now - row.heartbeat > _STALE + _GRACE
    return row.status == "queued" and now - row.next_run > _GRACE


@click.group(invoke_without_command=True)
@place_options
@json_option
@click.pass_context
def schedules(ctx: click.Context, place: Place, as_json: bool) -> None:
    """List the schedules, or pause, resume, trigger or remove some.

    A schedule is queued until its next run, running, or paused. One is overdue if it should have
    fired: no worker that knows it is running.
    """
    if ctx.invoked_subcommand is not None:
        return
    found = ask(place, _snapshot)
    if as_json:
        echo_json([_data(row, found.now) for row in found.schedules])
    elif found.schedules:
        console().print(_table(found))
    else:
        click.echo("no schedules; workers make theirs known when they start")


@schedules.command()
@place_options
@json_option
@names_argument
def pause(place: Place, as_json: bool, names: Sequence[str]) -> None:
    """Keep schedules from firing until they are resumed; one that runs goes on to its end."""

    async def change(queries: Queries, ids: list[int]) -> set[int]:
        return await queries.pause_schedule(ids)

    _report("paused", _changed(place, names, change), as_json)


@schedules.command()
@place_options
@json_option
@names_argument
def resume(place: Place, as_json: bool, names: Sequence[str]) -> None:
    """Have paused schedules fire again; what they missed is up to their misfire policies."""

    async def change(queries: Queries, ids: list[int]) -> set[int]:
        return await queries.resume_schedule(ids)

    _report("resumed", _changed(place, names, change), as_json)


@schedules.command()
@place_options
@json_option
@names_argument
def trigger(place: Place, as_json: bool, names: Sequence[str]) -> None:
    """Fire schedules now, once; one that runs fires again when it has ended.

    Fails if one of them is paused, and triggers none then.
    """

    async def change(queries: Queries, ids: list[int]) -> set[int]:
        return await queries.trigger_schedule(ids)

    _report("triggered", _changed(place, names, change, refuse_paused=True), as_json)


@schedules.command()
@place_options
@json_option
@yes_option
@names_argument
def remove(place: Place, as_json: bool, yes: bool, names: Sequence[str]) -> None:
    """Delete schedules; one that runs is cancelled.

    A worker that has one registered makes it known again when it starts.
    """

    async def find(queries: Queries) -> list[Schedule]:
        return _find(await _snapshot(queries), names)

    found = ask(place, find)
    for row in found if not yes else ():
        click.echo(_line(row), err=True)
    confirm(f"Remove {len(found)} schedule(s)?", yes=yes, done="removed")

    async def delete(queries: Queries) -> int:
        return await queries.delete_schedule([row.id for row in found])

    ask(place, delete)
    _report("removed", (found, []), as_json)


async def _snapshot(queries: Queries) -> Snapshot:
    return await queries.backend.schedules.snapshot()


def _find(snapshot: Snapshot, names: Sequence[str]) -> list[Schedule]:
    """Return the schedules of these names or ids; a number is an id if there is one.

    Raises:
        Failure: one of them is unknown.
    """
    by_id = {str(row.id): [row] for row in snapshot.schedules}
    found: dict[int, Schedule] = {}
    for name in names:
        rows = by_id.get(name) or [row for row in snapshot.schedules if row.entrypoint == name]
        if not rows:
            known = ", ".join(sorted({repr(row.entrypoint) for row in snapshot.schedules}))
            raise Failure(
                f"there is no schedule {name!r}, so nothing was changed; known: {known or 'none'}"
            )
        found |= {row.id: row for row in rows}
    return list(found.values())


def _changed(
    place: Place, names: Sequence[str], change: _Change, *, refuse_paused: bool = False
) -> tuple[list[Schedule], list[Schedule]]:
    """Change schedules; return those that were changed, and those that were not."""

    async def question(queries: Queries) -> tuple[list[Schedule], list[Schedule]]:
        found = _find(await _snapshot(queries), names)
        paused = [row for row in found if state_of(row) == _PAUSED]
        if refuse_paused and paused:
            raise Failure(
                f"{_line(paused[0])} is paused, so nothing was triggered; "
                "`pgq-trio schedules resume` it before"
            )
        ids = await change(queries, [row.id for row in found])
        return [x for x in found if x.id in ids], [x for x in found if x.id not in ids]

    return ask(place, question)


def _report(done: str, rows: tuple[list[Schedule], list[Schedule]], as_json: bool) -> None:
    changed, others = rows
    if as_json:
        echo_json({"ids": [row.id for row in changed]})
        return
    for row in changed:
        click.echo(f"{done} {_line(row)}")
    for row in others:
        click.echo(f"{_line(row)} is {state_of(row)}, nothing to do")


def _line(row: Schedule) -> str:
    return printable(f"schedule {row.id} {row.entrypoint!r} {row.expression!r}")


def _data(row: Schedule, now: datetime) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.entrypoint,
        "expression": row.expression,
        "status": state_of(row),
        "next_run": row.next_run.isoformat(),
        "last_run": None if row.last_run is None else row.last_run.isoformat(),
        "overdue": is_overdue(row, now),
    }


def _table(found: Snapshot) -> Table:
    columns = ["id#", "name", "expression", "status", "next run", "last run", "overdue"]
    rows = [
        (
            row.id,
            row.entrypoint,
            row.expression,
            state_of(row),
            local_time(row.next_run),
            local_time(row.last_run),
            "overdue" if is_overdue(row, found.now) else "",
        )
        for row in found.schedules
    ]
    return table("schedules", columns, rows)
