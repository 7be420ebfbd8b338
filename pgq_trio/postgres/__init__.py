"""PostgreSQL on AnyIO, for Trio and asyncio: sessions, a pool, notifications; re-exports only.

It knows sockets and SQL, not jobs. Connections are psycopg's (`psycopg.AsyncConnection`), as are
the errors; the pool's are those of `psycopg_pool`.
"""

from __future__ import annotations

from psycopg import Notify
from psycopg_pool import PoolClosed, PoolTimeout

from pgq_trio.postgres.connection import Connection
from pgq_trio.postgres.listener import Listener, listen
from pgq_trio.postgres.opening import connect, open_pool
from pgq_trio.postgres.pool import ConnectionPool

__all__ = [
    "Connection",
    "ConnectionPool",
    "Listener",
    "Notify",
    "PoolClosed",
    "PoolTimeout",
    "connect",
    "listen",
    "open_pool",
]
