"""Which event loop is running, for what cannot run on every one; knows no driver."""

from __future__ import annotations

import anyio

from pgq_trio.errors import BackendNotSupported

__all__ = ["require_asyncio"]


def require_asyncio(what: str) -> None:
    """Refuse Trio; without a running loop nothing is refused.

    Raises:
        BackendNotSupported: Trio runs here.
    """
    try:
        # The one public name that tells the loops apart without importing either.
        running = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
    except anyio.NoEventLoopError:
        return
    if running != "asyncio":
        raise BackendNotSupported(
            f"{what} runs on asyncio only, and this is {running.capitalize()}; use PsycopgDriver "
            "with a connection of `pgq_trio.postgres.connect(conninfo)` or a pool of "
            "`open_pool(conninfo)`, which run on Trio and on asyncio"
        )
