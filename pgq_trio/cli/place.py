"""The options that say where the queue is, accepted before and behind a command."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from pgq_trio.cli.program import DEBUG
from pgq_trio.settings import Settings, environment

R = TypeVar("R")

#: Where `--embedded` keeps its data without `--data`, from the current directory.
DEFAULT_DATA = Path(".pgq-trio", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the queue is; None means that it was not said.

    Attributes:
        embedded: a private PostgreSQL, whose data are kept in `data`.
    """

    dsn: str | None = None
    embedded: bool = False
    data: Path | None = None
    prefix: str | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.dsn is not None and (self.embedded or self.data is not None):
            other = "--embedded" if self.embedded else "--data"
            raise click.UsageError(f"--dsn and {other} name two databases; give one of them")

    def then(self, later: Place) -> Place:
        """Return this place as changed by options that came later."""
        dsn, embedded, data = self.dsn, self.embedded, self.data
        if later.dsn is not None:
            dsn, embedded, data = later.dsn, False, None
        elif later.is_embedded:
            dsn, embedded, data = None, True, data if later.data is None else later.data
        return Place(
            dsn=dsn,
            embedded=embedded,
            data=data,
            prefix=self.prefix if later.prefix is None else later.prefix,
            schema=self.schema if later.schema is None else later.schema,
        )

    @property
    def is_embedded(self) -> bool:
        """Whether the queue is in a private PostgreSQL."""
        return self.embedded or self.data is not None

    @property
    def directory(self) -> Path:
        """Where a private PostgreSQL keeps its data."""
        return self.data or DEFAULT_DATA

    def settings(self) -> Settings:
        """Return the names of the database's objects.

        Raises:
            click.UsageError: PostgreSQL cannot use one of them.
        """
        try:
            return Settings(prefix=self.prefix or "", schema=self.schema or "")
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc

    @contextmanager
    def in_environment(self, dsn: str | None = None) -> Generator[None]:
        """Hand the place on to whoever reads the environment, for the length of a block."""
        changes = environment(
            dsn=self.dsn if dsn is None else dsn, prefix=self.prefix, schema=self.schema
        )
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def place_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options, and the place they and earlier ones name as `place`."""

    @click.option("--dsn", metavar="DSN", help="DSN or conninfo of the database.")
    @click.option("--embedded", is_flag=True, help="Use a private PostgreSQL.")
    @click.option(
        "--data",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"Where --embedded keeps its data.  [default: {DEFAULT_DATA}]",
    )
    @click.option("--prefix", metavar="TEXT", help="Stands in front of all names of the queue.")
    @click.option("--schema", metavar="NAME", help="PostgreSQL schema of the queue.")
    @click.option("--debug", is_flag=True, envvar="PGQ_DEBUG", help="Show tracebacks.")
    @click.pass_context
    @wraps(command)
    def with_place(
        ctx: click.Context,
        /,
        *args: Any,
        dsn: str | None,
        embedded: bool,
        data: Path | None,
        prefix: str | None,
        schema: str | None,
        debug: bool,
        **options: Any,
    ) -> R:
        given = Place(dsn=dsn, embedded=embedded, data=data, prefix=prefix, schema=schema)
        ctx.obj = place = (ctx.find_object(Place) or Place()).then(given)
        ctx.meta[DEBUG] = debug or ctx.meta.get(DEBUG, False)
        return command(*args, place=place, **options)

    return with_place
