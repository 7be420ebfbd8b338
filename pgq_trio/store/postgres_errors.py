"""The wall: psycopg's errors go in, errors of this package come out; knows no statement."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolTimeout

from pgq_trio.errors import ConnectionLost, PgqError, SchemaMissing, StoreError
from pgq_trio.postgres.errors import is_connection_lost, is_missing_object, is_retryable
from pgq_trio.postgres.sql_port import ConstraintViolated

__all__ = ["in_words", "judge", "only_connection_closed", "translate"]


def only_connection_closed() -> ConnectionLost:
    """Return the error of a driver whose one connection is closed: trying again mends nothing."""
    return ConnectionLost(
        "the only connection of this driver is closed, and nobody can make it again; give a "
        "worker a pool, which replaces lost connections",
        retryable=False,
    )


def translate(error: psycopg.Error) -> PgqError:
    """Return this package's error for one of psycopg's; raise it `from` the given one."""
    diag = error.diag
    text = diag.message_primary or str(error) or type(error).__name__
    message = in_words(text, diag.message_detail, diag.message_hint) if error.sqlstate else text
    return judge(error, message, constraint=diag.constraint_name, primary=diag.message_primary)


def judge(
    error: psycopg.Error, message: str, *, constraint: str | None, primary: str | None
) -> PgqError:
    """Return this package's error for the kind that `error` is of.

    Args:
        error: what kind of failure it was; only its class and SQLSTATE count.
        message: what the new error says.
        constraint: the name of the violated constraint, if one was.
        primary: the server's one sentence, which names the missing object.
    """
    if isinstance(error, pg.UniqueViolation):
        return ConstraintViolated(constraint or "", message)
    if is_connection_lost(error):
        return ConnectionLost(message)
    if is_missing_object(error):
        return SchemaMissing([primary or message])
    # All connections being busy says nothing about the next time.
    return StoreError(message, retryable=is_retryable(error) or isinstance(error, PoolTimeout))


def in_words(text: str, *hints: str | None) -> str:
    """Return the server's message with what it adds to it."""
    return " ".join([f"PostgreSQL: {text}.", *(hint for hint in hints if hint)])
