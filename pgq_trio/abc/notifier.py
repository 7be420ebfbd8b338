"""The port of notifications between processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pgq_trio.model.wire import Channel

__all__ = ["Notifier"]


class Notifier(Protocol):
    """What processes tell each other: work, cancellations, completions and who waits for them."""

    def listen(self, *channels: Channel) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen on one connection; the iterator yields payloads.

        Args:
            channels: where to listen; none: on "work".

        Entering returns once the store will deliver every later notification. The iterator
        raises `ListenerLost` when the connection breaks; listening again, then looking for work,
        is the caller's business.
        """
        ...

    async def notify(self, channel: Channel, payloads: Sequence[str]) -> None:
        """Send payloads, each below 8000 bytes, in one statement and in this order."""
        ...
