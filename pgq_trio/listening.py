"""The service that hears what other processes say and listens again after a lost connection.

It reads events and hands them on; what they mean for jobs and schedules it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskStatus

from pgq_trio.abc import Notifier
from pgq_trio.concurrency.backoff import Backoff
from pgq_trio.errors import ListenerLost, StoreError
from pgq_trio.model.wire import Channel, Event, parse_event


class Listener:
    """One LISTEN for one process or one watcher.

    Args:
        notifier: where to listen.
        channels: on which channels of it, all on one connection.
        on_event: takes each event, also those that are to be ignored.
        on_connected: called each time from when on nothing is missed. Listening first, looking
            second: whoever looks for work then has nothing fall between the two.
        on_problem: told why the connection is lost, and with None that it is back.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        channels: Sequence[Channel] = ("work",),
        on_event: Callable[[Event], None],
        on_connected: Callable[[], None],
        on_problem: Callable[[str | None], None],
    ) -> None:
        self._notifier = notifier
        self._channels = tuple(channels)
        self._on_event = on_event
        self._on_connected = on_connected
        self._on_problem = on_problem

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Listen until cancelled.

        Started once the first LISTEN is acknowledged, or has failed for a reason that passes:
        polling covers the gap then.

        Raises:
            StoreError: listening is refused for a reason that no other try mends.
        """
        backoff = Backoff()
        serving = False

        def serve() -> None:
            nonlocal serving
            if not serving:
                serving = True
                task_status.started()

        while True:
            try:
                async with self._notifier.listen(*self._channels) as payloads:
                    backoff.reset()
                    self._on_problem(None)
                    self._on_connected()
                    serve()
                    async for payload in payloads:
                        self._on_event(parse_event(payload))
            except (ListenerLost, StoreError) as exc:
                if isinstance(exc, StoreError) and not exc.retryable:
                    raise
                self._on_problem(str(exc))
                serve()
            await anyio.sleep(backoff.next())
