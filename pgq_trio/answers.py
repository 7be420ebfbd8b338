"""How long the store may take to answer, so that a server that went silent is noticed as lost."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from pgq_trio.errors import ConnectionLost

T = TypeVar("T")

#: Seconds for one statement of a worker: a hundred times what the slowest should take.
ANSWER_LIMIT = 10.0


async def answer_to(
    what: str, statement: Awaitable[T], *, limit: float | None = None, shield: bool = False
) -> T:
    """Await a statement, no longer than the limit in seconds.

    Args:
        what: names it in the error.
        statement: the store's operation.
        limit: after so many seconds it is cancelled; None: `ANSWER_LIMIT`.
        shield: whether it is out of reach of cancellation from outside until then.

    Raises:
        ConnectionLost: there was no answer; whether it took effect is unknown.
    """
    seconds = ANSWER_LIMIT if limit is None else limit
    with anyio.move_on_after(seconds, shield=shield):
        return await statement
    raise ConnectionLost(f"{what} got no answer within {seconds:g} s")
