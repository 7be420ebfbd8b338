"""`demo`: the main job on real input; here only its options, the rest is in this folder."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import replace

import click

from pgq_trio.cli.demo.app import run_demo
from pgq_trio.cli.demo.data import DIRECTORY, remove
from pgq_trio.cli.demo.names import Options, demo_settings
from pgq_trio.cli.demo.screen import Screen
from pgq_trio.cli.output import printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.cli.runtime import Backend, Interrupts, backend_option, execute
from pgq_trio.postgres.embedded import open_embedded
from pgq_trio.settings import Settings, default_dsn

__all__ = ["demo"]


@click.command()
@place_options
@backend_option
@click.argument("path", required=False, type=click.Path(exists=True, file_okay=False))
@click.option("--jobs", metavar="N", type=click.IntRange(min=1), help="At most so many files.")
@click.option(
    "--fail-rate",
    metavar="RATE",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of runs that fail, 0 to 1; a job fails four times at the most.",
)
@click.option("--fresh", is_flag=True, help="Forget what earlier runs of the demo have left.")
def demo(
    place: Place,
    backend: Backend,
    path: str | None,
    jobs: int | None,
    fail_rate: float,
    fresh: bool,
) -> None:
    """Hash and count every file below PATH in jobs, and add up the results.

    PATH is the directory of Python's standard library if it is not given. A file is hashed in a
    worker thread, its result added to resources that all jobs share. In the end the totals are
    compared with an independent count; they are equal, or the command exits with 1.

    Without a DSN (--dsn, PGQUEUER_DSN or PGDSN) a private PostgreSQL is started, whose data are
    kept in .pgq-trio/demo of the current directory. With one, the demo uses a queue of its own
    there: all its names begin with `demo_`.

    Ctrl-C drains and exits with 0. Running the command again finishes what was left.
    """
    options = Options(
        root=os.path.abspath(path or sysconfig.get_path("stdlib")),  # noqa: PTH100
        jobs=jobs,
        fail_rate=fail_rate,
        fresh=fresh,
    )
    screen = Screen()
    with place.in_environment():
        settings = _settings(place)
        dsn = None if place.is_embedded else default_dsn() or None

    async def command(interrupts: Interrupts) -> None:
        if dsn is None:
            await _run_embedded(place, settings, options, screen, interrupts)
        else:
            await run_demo(dsn, settings, options, screen, interrupts)

    screen.say(f"one job for each file below {printable(options.root)}, on {backend}")
    execute(command, backend=backend)


def _settings(place: Place) -> Settings:
    given = place.settings()
    try:
        return demo_settings(given.prefix, given.schema)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


async def _run_embedded(
    place: Place, settings: Settings, options: Options, screen: Screen, interrupts: Interrupts
) -> None:
    if options.fresh and place.data is None:
        remove(DIRECTORY)  # else only the demo's own objects go, in a database that may hold more
        options = replace(options, fresh=False)
    directory = place.data or DIRECTORY
    screen.say(f"starting a private PostgreSQL, data in {directory}")
    async with open_embedded(directory) as dsn:
        await run_demo(dsn, settings, options, screen, interrupts)
