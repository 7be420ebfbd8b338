"""`listen`: printing what processes tell each other, for those who look for a fault."""

from __future__ import annotations

import click

from pgq_trio.cli.database import with_dsn
from pgq_trio.cli.output import printable
from pgq_trio.cli.place import Place, place_options
from pgq_trio.postgres import listen as open_listener
from pgq_trio.settings import Settings


@click.command()
@place_options
@click.option("--channel", help="Another channel than the queue's.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
def listen(place: Place, channel: str | None, count: int | None) -> None:
    """Print notifications, one payload on a line, until interrupted."""

    async def on_dsn(dsn: str, settings: Settings) -> None:
        name = channel or settings.channel
        async with open_listener(dsn, name) as notifications:
            click.echo(f"listening on {printable(name)}", err=True)
            left = count
            async for notification in notifications:
                click.echo(printable(notification.payload))
                left = None if left is None else left - 1
                if left == 0:
                    return

    with_dsn(place, on_dsn)
