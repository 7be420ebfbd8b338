"""What a psycopg error means for whoever may try again; pure, knows no connection.

libpq gives no SQLSTATE for a connection that could not be made, only its text, so those errors are
told apart by it. The server's part of that text is in the server's language (`lc_messages`): an
unknown text counts as an error that a retry does not mend.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import psycopg
from psycopg import errors as e
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

__all__ = ["is_connection_lost", "is_missing_object", "is_retryable", "is_retryable_connect"]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CONNECTION_EXCEPTION: Final = "08"  # a class
_SESSION_ENDED: Final = frozenset(
    {
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P04",  # database_dropped
        "57P05",  # idle_session_timeout
    }
)
_ROLLED_BACK: Final = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "55P03",  # lock_not_available
    }
)
_SHORT_OF_RESOURCES: Final = "53"  # a class: disk full, out of memory, too many connections
_CANNOT_CONNECT_NOW: Final = "57P03"
_TOO_MANY_CONNECTIONS: Final = "53300"

_MENDABLE_ERRNOS: Final = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENOENT,  # the socket file of a server that is down
    errno.EAGAIN,  # a socket file whose backlog is full
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.EHOSTDOWN,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
)
_MENDABLE_TEXTS: Final = (
    *(os.strerror(number) for number in _MENDABLE_ERRNOS),
    "timeout expired",
    "server closed the connection unexpectedly",
    "connection socket closed",
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "the database system is not accepting connections",
    "terminating connection due to administrator command",
    "too many clients already",
    "too many connections for",
    "remaining connection slots are reserved",
)

#: `OperationalError`s that are about waiting, not about a session.
_NOT_ABOUT_SESSIONS: Final = (
    PoolClosed,
    PoolTimeout,
    TooManyRequests,
    e.CancellationTimeout,
    e.PipelineAborted,
)


def is_connection_lost(exc: BaseException) -> bool:
    """Whether the session is gone, or could not be had.

    Of a statement that was under way nobody knows whether it took effect. The pool's errors are
    not among them: with `PoolTimeout` the sessions may all be well, and busy.
    """
    if not isinstance(exc, psycopg.Error) or isinstance(exc, _NOT_ABOUT_SESSIONS):
        return False
    if exc.sqlstate is not None:
        return exc.sqlstate.startswith(_CONNECTION_EXCEPTION) or exc.sqlstate in _SESSION_ENDED
    return isinstance(exc, psycopg.OperationalError)


def is_retryable(exc: BaseException) -> bool:
    """Whether the same transaction, run again from its start, may well succeed.

    True for a lost connection, a serialization failure, a deadlock, a lock that was not available
    and a server short of resources. After a lost connection it may have been committed all the
    same, so what is run again must bear it.
    """
    if is_connection_lost(exc):
        return not _is_connect_failure(exc) or is_retryable_connect(exc)
    return (
        isinstance(exc, psycopg.Error)
        and exc.sqlstate is not None
        and (exc.sqlstate in _ROLLED_BACK or exc.sqlstate.startswith(_SHORT_OF_RESOURCES))
    )


def is_retryable_connect(exc: BaseException) -> bool:
    """Whether the same attempt to connect may succeed later.

    True if the server is down, unreachable, starting up or shutting down, full, or did not answer
    in time; also if a name server had a temporary failure. False for a wrong password, an unknown
    role, database or host, and whatever else waiting does not mend.
    """
    if not isinstance(exc, psycopg.OperationalError) or isinstance(exc, _NOT_ABOUT_SESSIONS):
        return False
    if isinstance(exc, e.ConnectionTimeout):
        return True
    if exc.sqlstate is not None:
        return (
            exc.sqlstate in {_CANNOT_CONNECT_NOW, _TOO_MANY_CONNECTIONS}
            or exc.sqlstate in _SESSION_ENDED
            or exc.sqlstate.startswith(_CONNECTION_EXCEPTION)
        )
    if isinstance(exc.__cause__, socket.gaierror):
        return exc.__cause__.errno == socket.EAI_AGAIN
    text = str(exc)
    return any(mendable in text for mendable in _MENDABLE_TEXTS)


def is_missing_object(exc: BaseException) -> bool:
    """Whether a table, column, function, type or schema that the statement names does not exist."""
    return isinstance(
        exc,
        e.UndefinedTable
        | e.UndefinedColumn
        | e.UndefinedFunction
        | e.UndefinedObject
        | e.InvalidSchemaName,
    )


def _is_connect_failure(exc: BaseException) -> bool:
    """Whether `exc` comes from opening a session rather than from using one."""
    if isinstance(exc, e.ConnectionTimeout) or isinstance(exc.__cause__, socket.gaierror):
        return True
    text = str(exc)
    return text.startswith(("connection failed:", "connection is bad:", "failed to resolve host"))
