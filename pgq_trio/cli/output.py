"""Printing: tables, JSON and lines, the same in a terminal and in a pipe; knows no queue."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound=Callable[..., Any])

#: Columns of what is not a terminal: wide enough that rows stay on one line.
PIPE_WIDTH = 200


class _Console(Console):
    """A console that leaves it to the program what a reader that has gone means."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error that is being handled, where rich would exit with 1."""
        raise sys.exc_info()[1] or BrokenPipeError


def console() -> Console:
    """Return a console on standard output that writes no control characters into a pipe."""
    if sys.stdout.isatty():
        return _Console(highlight=False)
    return _Console(
        highlight=False, force_terminal=False, color_system=None, width=PIPE_WIDTH, no_color=True
    )


def printable(value: object) -> str:
    """Return a value as text in which nothing can steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


def echo_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def as_data(record: DataclassInstance) -> dict[str, object]:
    """Return a record as JSON can hold it: its fields by their names, times in ISO 8601.

    Of a payload there is the size only, as `payload_bytes`: it may be large, secret, or no text.
    """
    data: dict[str, object] = {}
    for field in fields(record):
        value: object = getattr(record, field.name)
        if field.name == "payload":
            data["payload_bytes"] = len(value) if isinstance(value, bytes) else 0
        else:
            data[field.name] = _plain(value)
    return data


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return as_data(value)
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    return str(value)


def local_time(time: datetime | None) -> str | None:
    """Return a time as people read it, in their own time zone."""
    return None if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, none: str
) -> None:
    """Print a table, or a line when there is nothing to put into it."""
    if rows:
        console().print(table(title, columns, rows))
    else:
        click.echo(none)


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
