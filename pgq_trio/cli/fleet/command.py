"""From the options of `run` to a fleet that runs: the options, the command of each process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from pgq_trio.cli.database import embedded_beside
from pgq_trio.cli.fleet.restarts import LONGEST_DELAY, STABLE
from pgq_trio.cli.fleet.supervisor import LIFELINE, Fleet
from pgq_trio.cli.fleet.worker import FleetOptions
from pgq_trio.cli.place import Place
from pgq_trio.cli.runtime import Backend, Interrupts, execute

R = TypeVar("R")

#: What running jobs get when the code has changed, unless --grace-period says otherwise.
RELOAD_GRACE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRequest:
    """What the command line says of a fleet; `lifeline` only in the command of its processes."""

    processes: int | None
    restart_on_failure: bool
    restart_delay: float
    restart_limit: int
    reload: bool
    reload_dirs: Sequence[Path]
    lifeline: int | None

    def __post_init__(self) -> None:
        if self.reload_dirs and not self.reload:
            raise click.UsageError("--reload-dir says what --reload watches; give both")

    @property
    def wants_parent(self) -> bool:
        """Whether this command is to be the parent of processes."""
        asked = self.processes is not None or self.restart_on_failure or self.reload
        return asked and self.lifeline is None

    def options(self, grace_period: float) -> FleetOptions:
        """Return how the fleet behaves."""
        return FleetOptions(
            processes=self.processes or 1,
            restart_limit=self.restart_limit,
            restart_delay=self.restart_delay,
            grace_period=grace_period,
            reload=self.reload,
        )


def fleet_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give `run` the options that make it the parent of processes, as `fleet`."""

    @click.option("--processes", type=click.IntRange(min=1), help="Run in so many processes.")
    @click.option(
        "--restart-on-failure",
        is_flag=True,
        help="Run in a process that is started again when it fails; implied by --processes.",
    )
    @click.option(
        "--restart-delay",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help=f"Before the first restart; it doubles up to {LONGEST_DELAY:g}, and is jittered.",
    )
    @click.option(
        "--restart-limit",
        type=click.IntRange(min=0),
        default=5,
        show_default=True,
        help=f"Restarts in a row; a process that has run for {STABLE:g} s begins a new row.",
    )
    @click.option(
        "--reload", is_flag=True, help="Start anew when Python files change; for development."
    )
    @click.option(
        "--reload-dir",
        "reload_dirs",
        metavar="DIR",
        multiple=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Watched beside the current directory; may be given repeatedly.",
    )
    @click.option("--lifeline", type=click.IntRange(min=3), hidden=True)
    @wraps(command)
    def with_fleet(
        *args: Any,
        processes: int | None,
        restart_on_failure: bool,
        restart_delay: float,
        restart_limit: int,
        reload: bool,
        reload_dirs: Sequence[Path],
        lifeline: int | None,
        **options: Any,
    ) -> R:
        fleet = FleetRequest(
            processes=processes,
            restart_on_failure=restart_on_failure,
            restart_delay=restart_delay,
            restart_limit=restart_limit,
            reload=reload,
            reload_dirs=reload_dirs,
            lifeline=lifeline,
        )
        return command(*args, fleet=fleet, **options)

    return with_fleet


def command_of(
    place: Place,
    options: Mapping[str, object],
    factory: str,
    arguments: Sequence[str],
    *,
    reload: bool,
) -> list[str]:
    """Return program and arguments of each process.

    What a place says of a server is in the environment, passwords too. A private PostgreSQL is
    opened by each process, so that it lives until the last one has drained.

    Args:
        options: by the names of their parameters; those that are None or False are left out.
        reload: whether the code may change twice in a second, for which Python's cache of
            compiled modules has no eye.
    """
    flags = [f"-W{option}" for option in sys.warnoptions] + (["-B"] if reload else [])
    # -P: a user's file must not be imported in place of a library that has the same name.
    command = [sys.executable, *flags, "-P", "-m", "pgq_trio", "run", "--lifeline", LIFELINE]
    if place.is_embedded:
        command += ["--data", str(place.directory.absolute())]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            command.append(option)
        elif value is not None and value is not False:
            command += [option, str(value)]
    return [*command, "--", factory, *arguments]


def run_parent(fleet: Fleet, place: Place, backend: Backend) -> None:
    """Run a fleet to its end, and hand it the signals.

    Raises:
        Failure: see `Fleet.run`.
    """
    beside: AbstractContextManager[object] = (
        embedded_beside(place.directory, backend) if place.is_embedded else nullcontext()
    )

    async def watched(interrupts: Interrupts) -> None:
        with interrupts.taken_by(fleet.on_signal):
            await fleet.run()

    with beside, place.in_environment():
        place.settings()
        execute(watched, backend=backend)
