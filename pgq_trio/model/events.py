"""What happens in a worker, as records for observers: pure facts, no formatting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pgq_trio.errors import WorkerLost
from pgq_trio.model.outcomes import OutcomeKind
from pgq_trio.models import Job, Schedule
from pgq_trio.types import CancelReason


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A handler is about to be called."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A handler has returned or raised; the outcome is on its way to the store.

    `error` is what the handler raised, if anything; `seconds` how long it ran.
    """

    job: Job
    outcome: OutcomeKind
    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class JobInterrupted:
    """A job was cancelled for a reason that is no outcome: shutdown or a lost lease."""

    job: Job
    reason: CancelReason


@dataclass(frozen=True, slots=True)
class JobHeld:
    """A job was not run again but held as failed: its workers died or fell silent too often.

    `error` says how often. Its handler was not called this time, so there is no `JobEnded`.
    """

    job: Job
    error: WorkerLost


@dataclass(frozen=True, slots=True)
class OutcomeRefused:
    """The store did not take an outcome: the lease on the job is lost."""

    job: Job
    outcome: OutcomeKind


@dataclass(frozen=True, slots=True)
class ScheduleEnded:
    """A fire of a schedule is over; `error` is what its handler raised, if anything."""

    schedule: Schedule
    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ScheduleSkipped:
    """Fire times came while a schedule still ran; nobody makes up for them.

    `count` is how many, of more than 1000 some are not counted; `schedule.next_run` comes next.
    """

    schedule: Schedule
    count: int


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A part of the worker lost its connection (`problem` says how) or has it again (None)."""

    part: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class NotificationIgnored:
    """Somebody sent something on the channel that is no event; it was ignored."""

    problem: str


Event: TypeAlias = (
    JobStarted
    | JobEnded
    | JobInterrupted
    | JobHeld
    | OutcomeRefused
    | ScheduleEnded
    | ScheduleSkipped
    | HealthChanged
    | NotificationIgnored
)
