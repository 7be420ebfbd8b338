"""A queue in memory: its stores, its notifier and a schema that is always there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from anyio.lowlevel import checkpoint

from pgq_trio.abc import Backend, JobStore, Notifier, ScheduleStore, SchemaStore
from pgq_trio.settings import Settings
from pgq_trio.store.memory_clock import Ticker
from pgq_trio.store.memory_jobs import MemoryJobs
from pgq_trio.store.memory_schedules import MemorySchedules
from pgq_trio.store.memory_state import MemoryState

__all__ = ["MemoryBackend", "MemoryNotifier", "MemorySchema"]


class MemorySchema(SchemaStore):
    """There is nothing to create, and nothing is ever missing."""

    async def install(self) -> None:
        await checkpoint()

    async def uninstall(self) -> None:
        await checkpoint()

    async def verify(self) -> list[str]:
        await checkpoint()
        return []

    async def missing(self) -> list[str]:
        await checkpoint()
        return []


class MemoryNotifier(Notifier):
    """Each listener has its own unbounded queue; nothing is lost, nothing is waited for."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._state.listen()


class MemoryBackend(Backend):
    """The stores of one queue, all on one `MemoryState`."""

    def __init__(self, settings: Settings, ticker: Ticker) -> None:
        state = MemoryState(settings, ticker)
        self._settings = settings
        self._jobs = MemoryJobs(state)
        self._schedules = MemorySchedules(state)
        self._schema = MemorySchema()
        self._notifier = MemoryNotifier(state)

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def jobs(self) -> JobStore:
        return self._jobs

    @property
    def schedules(self) -> ScheduleStore:
        return self._schedules

    @property
    def schema(self) -> SchemaStore:
        return self._schema

    @property
    def notifier(self) -> Notifier:
        return self._notifier
