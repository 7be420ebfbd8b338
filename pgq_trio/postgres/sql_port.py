"""The port through which stores send SQL; its docstrings are the contract every driver keeps.

Statements have parameters `$1`, `$2`, … with casts, so that drivers of any kind can run them.
Values are plain: None, bool, int, float, str, bytes, UUID, aware datetime, and lists of these.
Every failure is an error of `pgq_trio.errors`; each operation is a checkpoint.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

from pgq_trio.errors import StoreError

__all__ = ["ConstraintViolated", "Param", "Row", "SqlConnection", "SqlSession"]

#: A row as the driver made it; the store knows the types of the columns it asked for.
Row: TypeAlias = tuple[Any, ...]

#: A parameter, or None.
Param: TypeAlias = object


class ConstraintViolated(StoreError):  # noqa: N818
    """A unique constraint or index refused a statement; `constraint` is its name."""

    def __init__(self, constraint: str, message: str) -> None:
        self.constraint = constraint
        super().__init__(message)


class SqlSession(Protocol):
    """Where one statement can be run after another."""

    async def fetch(self, statement: str, params: Sequence[Param] = ()) -> list[Row]:
        """Run one statement and return its rows; outside a transaction it is its own.

        Raises:
            ConstraintViolated: a unique constraint refused it.
            ConnectionLost, SchemaMissing, StoreError: it could not be run.
        """
        ...


class SqlConnection(SqlSession, Protocol):
    """A way to run statements: one connection, or a pool of them."""

    def transaction(self) -> AbstractAsyncContextManager[SqlSession]:
        """Run the statements of a block in one transaction, which ends with the block.

        Left normally it commits; by an error or a cancellation it rolls back.
        """
        ...

    async def run_script(self, statements: Sequence[str]) -> None:
        """Run statements without parameters in one transaction: all of them or none."""
        ...

    def listen(self, *channels: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Listen to channels on a connection of its own; the iterator yields payloads.

        Entering returns once the server will deliver every later notification.

        Raises:
            ConnectionLost: the connection could not be made.
            ListenerLost: from the iterator, the connection broke.
        """
        ...
