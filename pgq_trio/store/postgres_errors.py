"""The wall: psycopg's errors go in, errors of this package come out; knows no statement."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolTimeout

from pgq_trio.errors import ConnectionLost, PgqError, SchemaMissing, StoreError
from pgq_trio.postgres.errors import is_connection_lost, is_missing_object, is_retryable
from pgq_trio.postgres.sql_port import ConstraintViolated

__all__ = ["translate"]


def translate(error: psycopg.Error) -> PgqError:
    """Return this package's error for one of psycopg's; raise it `from` the given one."""
    message = _message(error)
    if isinstance(error, pg.UniqueViolation):
        return ConstraintViolated(error.diag.constraint_name or "", message)
    if is_connection_lost(error):
        return ConnectionLost(message)
    if is_missing_object(error):
        return SchemaMissing([error.diag.message_primary or message])
    # All connections being busy says nothing about the next time.
    return StoreError(message, retryable=is_retryable(error) or isinstance(error, PoolTimeout))


def _message(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error) or type(error).__name__
    hints = [part for part in (error.diag.message_detail, error.diag.message_hint) if part]
    return " ".join([f"PostgreSQL: {text}.", *hints]) if error.sqlstate else text
