"""Printing: tables, JSON and lines, the same in a terminal and in a pipe; knows no queue."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

C = TypeVar("C", bound=Callable[..., Any])

#: Columns of what is not a terminal: wide enough that rows stay on one line.
PIPE_WIDTH = 200


def console() -> Console:
    """Return a console on standard output that writes no control characters into a pipe."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(
        highlight=False, force_terminal=False, color_system=None, width=PIPE_WIDTH, no_color=True
    )


def printable(value: object) -> str:
    """Return a value as text in which nothing can steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


def echo_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def json_option(command: C) -> C:
    """Give a command the flag --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of texts; columns whose name ends in # are numbers, set to the right."""
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column.endswith("#")
        name = column.removesuffix("#")
        result.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text("" if cell is None else printable(cell)) for cell in row))
    return result
