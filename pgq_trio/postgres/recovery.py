"""Brings a session that was interrupted in mid-exchange back to rest; knows libpq, not tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg import errors as e, generators, pq

from pgq_trio.postgres.internals import Wait

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

__all__ = ["CLEANUP_LIMIT", "PATIENCE", "drain", "is_active"]

#: Seconds that one cleanup (a rollback, a recovery after an interruption) may take before the
#: connection is closed instead. psycopg gives a cancel request as long.
CLEANUP_LIMIT: Final = 5.0

#: Seconds to wait for the server after each cancel request. There is more than one, because a
#: request that overtakes its query, or that ends one query of a pipeline, changes nothing for what
#: runs next. The first zero looks at what has arrived before any request is sent.
PATIENCE: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, CLEANUP_LIMIT)


def is_active(pgconn: PGconn) -> bool:
    """Whether the server owes an answer; no new query can be sent until it is read."""
    return pgconn.transaction_status == pq.TransactionStatus.ACTIVE


def drain(pgconn: PGconn) -> PQGen[None]:
    """Read and discard what the server still sends, ending a COPY on the way.

    It keeps no state of its own: where one run was cut off, another goes on.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    yield from generators.send(pgconn)
    while is_active(pgconn):
        result = yield from generators.fetch(pgconn)
        if result is None:
            continue
        if result.status == pq.ExecStatus.COPY_IN:
            yield from _fail_copy(pgconn)
        elif result.status == pq.ExecStatus.COPY_OUT:
            yield from _skip_copy(pgconn)
        elif result.status == pq.ExecStatus.COPY_BOTH:
            raise e.OperationalError("cannot leave a replication stream")


def _fail_copy(pgconn: PGconn) -> PQGen[None]:
    """Have the server discard the rows of a COPY FROM STDIN."""
    while pgconn.put_copy_end(b"interrupted") == 0:
        while not (yield Wait.W):
            pass
    yield from generators.send(pgconn)


def _skip_copy(pgconn: PGconn) -> PQGen[None]:
    """Read the rows of a COPY TO STDOUT to their end."""
    while (size := pgconn.get_copy_data(1)[0]) >= 0:
        if size == 0:
            while not (yield Wait.R):
                pass
            pgconn.consume_input()
