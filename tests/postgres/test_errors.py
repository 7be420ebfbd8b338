"""Which errors tell of a lost session, which of something that a retry mends."""

from __future__ import annotations

import os
import socket

import psycopg
import pytest
from psycopg import errors as e
from psycopg_pool import PoolClosed, PoolTimeout

from pgq_trio.postgres import connect
from pgq_trio.postgres.errors import (
    is_connection_lost,
    is_missing_object,
    is_retryable,
    is_retryable_connect,
)

REFUSED = f'connection failed: connection to server at "::1", port 5432 failed: {os.strerror(111)}'
STARTING = "connection failed: FATAL:  the database system is starting up"
CLIENTS = "connection failed: FATAL:  sorry, too many clients already"
REFUSED_LOGIN = 'connection failed: FATAL:  password authentication failed for user "x"'


def unresolved(number: int) -> psycopg.OperationalError:
    error = psycopg.OperationalError("failed to resolve host 'x'")
    error.__cause__ = socket.gaierror(number, "text")
    return error


@pytest.mark.parametrize(
    "error",
    [
        e.AdminShutdown(),
        e.CrashShutdown(),
        e.IdleInTransactionSessionTimeout(),
        e.ConnectionFailure(),
        psycopg.OperationalError("the connection is lost"),
        psycopg.OperationalError("consuming input failed: server closed the connection"),
        psycopg.OperationalError("connection socket closed"),
        e.ConnectionTimeout("connection timeout expired"),
    ],
    ids=repr,
)
def test_lost(error: psycopg.Error) -> None:
    assert is_connection_lost(error)
    assert is_retryable(error)
    assert not is_missing_object(error)


@pytest.mark.parametrize(
    "error",
    [
        e.UniqueViolation(),
        e.SerializationFailure(),
        e.QueryCanceled(),
        e.DiskFull(),
        e.PipelineAborted(),
        psycopg.InterfaceError("the cursor is closed"),
        psycopg.ProgrammingError("bad"),
        PoolTimeout("busy"),
        PoolClosed("closed"),
        OSError("not psycopg's"),
    ],
    ids=repr,
)
def test_not_lost(error: Exception) -> None:
    assert not is_connection_lost(error)
    assert not is_retryable_connect(error)


@pytest.mark.parametrize(
    "error",
    [e.SerializationFailure(), e.DeadlockDetected(), e.LockNotAvailable(), e.OutOfMemory()],
    ids=repr,
)
def test_retryable(error: psycopg.Error) -> None:
    assert is_retryable(error)
    assert not is_connection_lost(error)


@pytest.mark.parametrize(
    "error",
    [
        e.UniqueViolation(),
        e.QueryCanceled(),
        e.UndefinedTable(),
        psycopg.OperationalError(REFUSED_LOGIN),
        unresolved(socket.EAI_NONAME),
        ValueError("x"),
    ],
    ids=repr,
)
def test_not_retryable(error: Exception) -> None:
    assert not is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(REFUSED),
        psycopg.OperationalError(STARTING),
        psycopg.OperationalError(CLIENTS),
        e.CannotConnectNow(),
        e.TooManyConnections(),
        e.ConnectionTimeout("connection timeout expired"),
        unresolved(socket.EAI_AGAIN),
    ],
    ids=repr,
)
def test_retryable_connect(error: psycopg.Error) -> None:
    assert is_retryable_connect(error)
    assert is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(REFUSED_LOGIN),
        psycopg.OperationalError("something unheard of"),
        unresolved(socket.EAI_NONAME),
        e.InvalidPassword(),
        psycopg.ProgrammingError("bad conninfo"),
    ],
    ids=repr,
)
def test_not_retryable_connect(error: psycopg.Error) -> None:
    assert not is_retryable_connect(error)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM missing",
        "SELECT missing",
        "SELECT missing()",
        "SELECT NULL::missing",
        "SELECT * FROM missing.missing",
        "CREATE TABLE missing.t (a int)",
    ],
)
async def test_missing_object(dsn: str, query: str) -> None:
    async with await connect(dsn) as connection:
        with pytest.raises(psycopg.Error) as caught:
            await connection.execute(query.encode())
        assert is_missing_object(caught.value)
        await connection.rollback()


@pytest.mark.anyio
async def test_refusals_of_a_real_server(dsn: str) -> None:
    for parameters in ("dbname=no_such_database", "user=no_such_role"):
        with pytest.raises(psycopg.OperationalError) as caught:
            await connect(f"{dsn} {parameters}")
        assert not is_retryable_connect(caught.value)
        assert not is_retryable(caught.value)


@pytest.mark.anyio
async def test_nobody_listens(dsn: str) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(dsn, host="127.0.0.1", port=1)
    assert is_retryable_connect(caught.value)
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(dsn, host="/nonexistent")
    assert is_retryable_connect(caught.value)


@pytest.mark.anyio
async def test_a_full_database(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE ROLE pgq_limited LOGIN CONNECTION LIMIT 0")
        try:
            with pytest.raises(psycopg.OperationalError) as caught:
                await connect(dsn, user="pgq_limited")
        finally:
            await connection.execute("DROP ROLE pgq_limited")
        assert is_retryable_connect(caught.value)
