"""PgQueuer's import path for `Queries`."""

from pgq_trio.client.queries import Queries

__all__ = ["Queries"]
