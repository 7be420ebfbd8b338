"""The states of a job and the legal ways between them, drawn in docs/explanation/job-states.md."""

from __future__ import annotations

from typing import NamedTuple

from pgq_trio.types import FINAL_STATES, JobStatus


class Transition(NamedTuple):
    """One legal change: from a state (None: no row yet), by an event, to a state."""

    source: JobStatus | None
    event: str
    target: JobStatus


#: Every change any statement of this package makes, and no other.
TRANSITIONS: frozenset[Transition] = frozenset(
    {
        Transition(None, "enqueue", "queued"),
        Transition("queued", "claim", "picked"),
        Transition("queued", "cancel", "canceled"),
        Transition("queued", "clear", "deleted"),
        Transition("picked", "return", "successful"),
        Transition("picked", "exception", "exception"),
        Transition("picked", "exception with on_failure=hold", "failed"),
        Transition("picked", "retry", "queued"),
        Transition("picked", "interrupt", "queued"),
        Transition("picked", "rescue", "picked"),
        Transition("picked", "max_attempts rescues", "failed"),
        Transition("picked", "cancel", "canceled"),
        Transition("picked", "clear", "deleted"),
        Transition("failed", "requeue", "queued"),
        Transition("failed", "cancel", "canceled"),
        Transition("failed", "clear", "deleted"),
    }
)


def is_final(status: JobStatus) -> bool:
    """Whether a job in this state has left the queue table for good."""
    return status in FINAL_STATES


def may_follow(source: JobStatus | None, target: JobStatus) -> bool:
    """Whether some event leads from one state to the other."""
    return any(t.source == source and t.target == target for t in TRANSITIONS)
