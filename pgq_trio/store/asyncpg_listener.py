"""What an asyncpg connection hears, as an async iterator; knows no channel and no payload.

asyncpg calls back from the event loop, outside of any task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel

from pgq_trio.errors import ListenerLost

__all__ = ["Payloads"]


class Payloads(AsyncIterator[str]):
    """Payloads in the order they came, without a bound, until the connection is lost."""

    def __init__(self) -> None:
        self._received: deque[str] = deque()
        self._is_lost = False
        self._is_closed = False
        self._news = anyio.Event()

    def heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        """A notification has come."""
        if not self._is_closed:
            self._received.append(str(payload))
            self._news.set()

    def lost(self, _connection: object) -> None:
        """The connection has ended."""
        self._is_lost = True
        self._news.set()

    def close(self) -> None:
        """Keep nothing from now on: asyncpg may go on calling back for a while."""
        self._is_closed = True
        self._received.clear()

    async def __anext__(self) -> str:
        # Here, and not behind it, where a cancellation would lose what was taken.
        await anyio.lowlevel.checkpoint()
        while not self._received:
            if self._is_lost:
                raise ListenerLost("asyncpg: the connection was closed")
            self._news = anyio.Event()
            await self._news.wait()
        return self._received.popleft()
