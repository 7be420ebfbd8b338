"""PgQueuer's import path for `Queries` and `SyncQueries`."""

from pgq_trio.client.queries import Queries
from pgq_trio.client.sync_queries import SyncQueries

__all__ = ["Queries", "SyncQueries"]
