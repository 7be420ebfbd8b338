"""The ready drivers: how a connection, a pool or plain memory becomes the stores of a queue."""

from __future__ import annotations

from pgq_trio.db.asyncpg_drivers import AsyncpgDriver, AsyncpgPoolDriver
from pgq_trio.db.memory_driver import InMemoryDriver
from pgq_trio.db.psycopg_driver import PsycopgDriver
from pgq_trio.db.sync_driver import SyncPsycopgDriver

__all__ = [
    "AsyncpgDriver",
    "AsyncpgPoolDriver",
    "InMemoryDriver",
    "PsycopgDriver",
    "SyncPsycopgDriver",
]
