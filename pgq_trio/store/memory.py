"""A queue in memory: its stores, its notifier and a schema that is always there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from anyio.lowlevel import checkpoint

from pgq_trio.abc import Notifier, SchemaStore
from pgq_trio.model.migration import Migration
from pgq_trio.model.wire import Channel
from pgq_trio.settings import Settings
from pgq_trio.store.backend import StoreBackend
from pgq_trio.store.memory_clock import Ticker
from pgq_trio.store.memory_insights import MemoryInsights
from pgq_trio.store.memory_jobs import MemoryJobs
from pgq_trio.store.memory_schedules import MemorySchedules
from pgq_trio.store.memory_state import MemoryState
from pgq_trio.types import Durability

__all__ = ["MemoryNotifier", "MemorySchema", "memory_backend"]


class MemorySchema(SchemaStore):
    """There is nothing to create, and nothing is ever missing."""

    async def install(self) -> None:
        await checkpoint()

    async def uninstall(self) -> None:
        await checkpoint()

    async def plan_upgrade(self, *, widen_ids: bool = True) -> list[Migration]:  # noqa: ARG002
        await checkpoint()
        return []

    async def upgrade(self, *, widen_ids: bool = True) -> list[Migration]:  # noqa: ARG002
        await checkpoint()
        return []

    async def plan_durability(self, durability: Durability) -> list[str]:  # noqa: ARG002
        await checkpoint()
        return []

    async def alter_durability(self, durability: Durability) -> list[str]:  # noqa: ARG002
        await checkpoint()
        return []

    async def tune_autovacuum(self, *, rollback: bool = False) -> None:  # noqa: ARG002
        await checkpoint()

    async def verify(self) -> list[str]:
        await checkpoint()
        return []

    async def verify_absent(self) -> list[str]:
        await checkpoint()
        return []

    async def missing(self) -> list[str]:
        await checkpoint()
        return []


class MemoryNotifier(Notifier):
    """Each listener has its own unbounded queue; nothing is lost, nothing is waited for."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def listen(self, *channels: Channel) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._state.listen(*channels)

    async def notify(self, channel: Channel, payloads: Sequence[str]) -> None:
        await checkpoint()
        for payload in payloads:
            self._state.notify(payload, channel)


def memory_backend(settings: Settings, ticker: Ticker) -> StoreBackend:
    """Return the stores of one new, empty queue."""
    state = MemoryState(settings, ticker)
    return StoreBackend(
        settings=settings,
        jobs=MemoryJobs(state),
        schedules=MemorySchedules(state),
        insights=MemoryInsights(state),
        schema=MemorySchema(),
        notifier=MemoryNotifier(state),
    )
