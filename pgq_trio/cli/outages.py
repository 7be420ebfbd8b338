"""Going on after an outage, for commands that run until they are interrupted; knows no command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import click
import psycopg

from pgq_trio.cli.program import describe
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.errors import StoreError
from pgq_trio.postgres.errors import is_retryable


async def through_outages(session: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
    """Run something until it returns; after a lost connection, run it again.

    Args:
        session: opens a connection and uses it. It calls its argument when it has got so far
            that another try makes sense: what fails before the first time fails for good.

    Raises:
        StoreError: waiting does not mend it.
    """
    backoff = Backoff()
    has_served = False
    is_out = False

    def serves() -> None:
        nonlocal has_served, is_out
        if is_out:
            click.echo("connected again", err=True)
        has_served, is_out = True, False
        backoff.reset()

    while True:
        try:
            await session(serves)
        except (StoreError, psycopg.Error) as exc:
            if not (has_served and _passes(exc)):
                raise
            if not is_out:
                click.echo(f"{describe(exc)}; trying to connect again", err=True)
            is_out = True
        else:
            return
        await anyio.sleep(backoff.next())


def _passes(exc: StoreError | psycopg.Error) -> bool:
    if isinstance(exc, StoreError) and exc.retryable:
        return True
    cause = exc.__cause__ if isinstance(exc, StoreError) else exc
    return cause is not None and is_retryable(cause)
