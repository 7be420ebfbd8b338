"""Waits for a server that is down or starting up; knows retries, not pools."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import psycopg

from pgq_trio.postgres.errors import is_retryable_connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["backoff", "keep_trying"]

logger: logging.Logger = logging.getLogger("pgq_trio.postgres")

T = TypeVar("T")

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0


def backoff(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0).

    Doubles from 0.1 s to 5 s; of that, a random half is taken off, so that many processes that
    lost the same server do not return in step.
    """
    return min(_FIRST_DELAY * 2.0 ** min(attempt, 16), _LONGEST_DELAY) * (0.5 + draw() / 2)


async def keep_trying(connect: Callable[[], Awaitable[T]], limit: float) -> T:
    """Call `connect` until it succeeds, for at most `limit` seconds; 0 is a single attempt.

    Raises:
        psycopg.Error: at once, if no retry mends it; the last one, when the time is up.
        psycopg.errors.ConnectionTimeout: the time is up, and no attempt has ended.
    """
    if limit <= 0:
        return await connect()
    failure: psycopg.OperationalError = psycopg.errors.ConnectionTimeout(
        "connection timeout expired"
    )
    attempt = 0
    with anyio.move_on_after(limit):
        while True:
            try:
                return await connect()
            except psycopg.OperationalError as exc:
                if not is_retryable_connect(exc):
                    raise
                failure = exc
            delay = backoff(attempt)
            attempt += 1
            logger.warning(
                "no connection yet, next attempt in %.2f s: %s",
                delay,
                " ".join(str(failure).split()),
            )
            await anyio.sleep(delay)
    failure.add_note(f"pgq-trio tried for {limit:g} s (reconnect_timeout)")
    raise failure
