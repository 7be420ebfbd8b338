"""`listen`: printing what processes tell each other, for those who look for a fault."""

from __future__ import annotations

from collections.abc import Callable

import click
import psycopg

from pgq_trio.cli.database import with_dsn
from pgq_trio.cli.outages import through_outages
from pgq_trio.cli.output import printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.errors import ConnectionLost, StoreError
from pgq_trio.postgres import Listener, listen as open_listener
from pgq_trio.settings import Settings


@click.command()
@place_options
@click.option("--channel", help="Another channel than the queue's.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
def listen(place: Place, channel: str | None, count: int | None) -> None:
    """Print notifications, one payload on a line, until interrupted.

    When the server restarts it listens again; what is sent meanwhile is lost.
    """

    async def on_dsn(dsn: str, settings: Settings) -> None:
        printing = _Printing(channel or settings.channel, count)

        async def session(serves: Callable[[], None]) -> None:
            await printing.listen(dsn, serves)

        await through_outages(session)

    with_dsn(place, on_dsn)


class _Printing:
    """Prints what comes on a channel, over all sessions at most `count` times."""

    def __init__(self, channel: str, count: int | None) -> None:
        self._channel = channel
        self._left = count

    async def listen(self, dsn: str, serves: Callable[[], None]) -> None:
        """Listen in one session until enough is printed.

        Raises:
            StoreError: there is no connection to be had, or it is lost.
        """
        is_open = False
        try:
            async with open_listener(dsn, self._channel) as notifications:
                is_open = True
                serves()
                click.echo(f"listening on {printable(self._channel)}", err=True)
                await self._print(notifications)
        except psycopg.Error as exc:
            if is_open:
                raise ConnectionLost(str(exc)) from exc
            raise StoreError(f"cannot connect to PostgreSQL: {exc}") from exc

    async def _print(self, notifications: Listener) -> None:
        async for notification in notifications:
            click.echo(printable(notification.payload))
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    return
