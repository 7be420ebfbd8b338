"""What can be learned about a queue in memory; every operation is a checkpoint, then one look."""

from __future__ import annotations

from pgq_trio.abc import InsightStore
from pgq_trio.store.memory_state import MemoryState

__all__ = ["MemoryInsights"]


class MemoryInsights(InsightStore):
    """`InsightStore` on a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state
