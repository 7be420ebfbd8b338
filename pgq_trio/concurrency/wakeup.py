"""A wake-up that many may give and one waits for; several before it looks count as one."""

from __future__ import annotations

import anyio


class Wakeup:
    """A flag with a waiter.

    None is lost if the waiter clears the flag *before* it looks for work: what is set while it
    looks is still set when it waits.
    """

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake the waiter; on the event loop's own thread only."""
        self._event.set()

    def clear(self) -> None:
        """Forget what was set until now."""
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Return when set, or after so many seconds; leaves the flag as it is."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
