"""Requests to stop, from any thread and from signal handlers, and the signals themselves.

`anyio.from_thread` needs a thread of AnyIO's own and deadlocks when it is called from the event
loop's thread, as a signal handler on asyncio is; a byte through a socket pair does not.
"""

from __future__ import annotations

import signal
import socket
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio

#: Waits for the running work: called with the seconds it may still take.
OnRequest = Callable[[float], None]


class Shutdown:
    """The wish to stop: the first request starts a grace period, the next may only shorten it."""

    def __init__(self, grace_period: float = 30.0) -> None:
        self.grace_period = grace_period
        self._requests: deque[float | None] = deque()
        self._sender: socket.socket | None = None

    @property
    def requested(self) -> bool:
        """Whether somebody asked and nobody has taken it up yet."""
        return bool(self._requests)

    def request(self, grace_period: float | None = None) -> None:
        """Ask to stop within `grace_period` seconds; None: as configured.

        Safe from every thread and from a signal handler; never blocks; may come before anybody
        listens.
        """
        self._requests.append(grace_period)
        sender = self._sender
        if sender is not None:
            try:
                sender.send(b"\x00")
            except OSError:  # full: the listener wakes anyway; closed: nobody listens any more
                return

    @contextmanager
    def _pair(self) -> Generator[socket.socket, None, None]:
        receiver, sender = socket.socketpair()
        with receiver, sender:
            receiver.setblocking(False)
            sender.setblocking(False)
            self._sender = sender
            try:
                yield receiver
            finally:
                self._sender = None

    async def watch(self, on_request: OnRequest) -> None:
        """Call `on_request` with the seconds left, for each request, until cancelled."""
        with self._pair() as receiver:
            while True:
                while self._requests:
                    grace = self._requests.popleft()
                    on_request(self.grace_period if grace is None else grace)
                await anyio.wait_readable(receiver)
                receiver.recv(4096)

    async def watch_signals(self) -> None:
        """Turn SIGINT and SIGTERM into requests until cancelled: the second one cancels now.

        Outside of the main thread signals cannot be received; then it warns and returns.
        """
        if threading.current_thread() is not threading.main_thread():
            warnings.warn(
                "signals are left alone: this event loop does not run in the main thread. "
                "Pass handle_signals=False and call request_shutdown() yourself.",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        grace: float | None = None
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.request(grace)
                grace = 0.0
