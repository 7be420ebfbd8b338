"""Options and arguments that commands share; they do nothing by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, get_args

import click

from pgq_trio.types import Durability

C = TypeVar("C", bound=Callable[..., Any])


class Decorator(Protocol):
    """Gives a command an option or an argument."""

    def __call__(self, command: C, /) -> C:
        """Return the command with it."""
        ...


limit_option: Decorator = click.option(
    *("--limit", "-n"),
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="How many rows at the most.",
)
names_argument: Decorator = click.argument(
    "names", metavar="NAME_OR_ID...", nargs=-1, required=True
)
durability_option: Decorator = click.option(
    "--durability",
    type=click.Choice(get_args(Durability)),
    help="Which new tables survive a crash of the server: none, all but the history, all.",
)
widen_option: Decorator = click.option(
    "--widen-id/--no-widen-id",
    "widen_ids",
    default=True,
    show_default=True,
    help="Widen ids to bigint, which rewrites their tables.",
)
durability_argument: Decorator = click.argument(
    "durability", type=click.Choice(get_args(Durability))
)
rollback_option: Decorator = click.option(
    "--rollback", is_flag=True, help="Take it back, PgQueuer's as well: the server's defaults."
)
