"""Small types shared by every room: the names of states, modes and ids."""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypeAlias
from uuid import UUID

__all__ = [
    "FINAL_STATES",
    "CancelReason",
    "Durability",
    "History",
    "JobId",
    "JobStatus",
    "Misfire",
    "OnConflict",
    "OnFailure",
    "QueueExecutionMode",
    "QueueManagerId",
    "SortOrder",
]

JobId: TypeAlias = int
QueueManagerId: TypeAlias = UUID

JobStatus: TypeAlias = Literal[
    "queued", "picked", "successful", "exception", "canceled", "deleted", "failed"
]
OnConflict: TypeAlias = Literal["raise", "skip", "update_priority"]
OnFailure: TypeAlias = Literal["delete", "hold"]
Durability: TypeAlias = Literal["volatile", "balanced", "durable"]
History: TypeAlias = Literal["full", "outcomes"]
SortOrder: TypeAlias = Literal["ASC", "DESC"]
Misfire: TypeAlias = Literal["last", "skip", "all"]

#: States a job never leaves: its row is gone from the queue table, only the log knows it.
FINAL_STATES: frozenset[JobStatus] = frozenset({"successful", "exception", "canceled", "deleted"})


class QueueExecutionMode(Enum):
    """How long `run` goes on: until it is told to stop, or until the queue is drained."""

    continuous = "continuous"
    drain = "drain"


class CancelReason(Enum):
    """Why the cancel scope of a job was cancelled; one mechanism, four reasons."""

    user = "cancelled by user"
    timeout = "timed out"
    shutdown = "shutting down"
    lease_lost = "lease lost"
