"""The port of notifications between processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["Notifier"]


class Notifier(Protocol):
    """Wake-ups and cancellations from other processes."""

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen on the channel; the iterator yields payloads.

        Entering returns once the store will deliver every later notification. The iterator
        raises `ListenerLost` when the connection breaks; listening again, then looking for work,
        is the caller's business.
        """
        ...
