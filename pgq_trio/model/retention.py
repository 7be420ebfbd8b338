"""How long the history of a queue is kept, by the state a row tells of; pure, it has no clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import NamedTuple, cast

from pgq_trio.model.durations import Duration, seconds
from pgq_trio.types import FINAL_STATES, JobStatus

__all__ = ["FOREVER", "AgeLimit", "Retention", "as_retention"]

#: Rows of a state with this age are never deleted.
FOREVER: timedelta = timedelta.max

#: Longer than this is for ever: PostgreSQL has no dates so long ago.
_LONGEST = timedelta(days=365_000)


class AgeLimit(NamedTuple):
    """What is deleted together: rows of these states that are older than so many seconds.

    `takes_earlier`: with the outcome of a job its earlier rows have to go, since they would be
    kept for longer, and the newest row that is left tells the state of a job.
    """

    seconds: float
    statuses: tuple[JobStatus, ...]
    takes_earlier: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long log rows are kept, by their state; a `timedelta` or seconds for each.

    When the row of a job's outcome goes, the earlier rows of that job go with it.

    Attributes:
        default: for every state that has no age of its own; None: for ever.
        queued: likewise for rows of this state, and so on; None: the default, `FOREVER`: never.
        statistics: for the counts that the log is folded into; None: for ever.

    Raises:
        TypeError, ValueError: an age is no duration, or negative.
    """

    default: Duration | None = None
    queued: Duration | None = None
    picked: Duration | None = None
    successful: Duration | None = None
    exception: Duration | None = None
    canceled: Duration | None = None
    deleted: Duration | None = None
    failed: Duration | None = None
    statistics: Duration | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            if given is not None:
                # One shape, so that equal ages compare equal.
                object.__setattr__(self, field.name, _age(given, field.name))

    def age(self, status: JobStatus) -> timedelta | None:
        """Return how long rows of a state are kept; None: for ever."""
        own = cast("timedelta | None", getattr(self, status))
        return _finite(cast("timedelta | None", self.default) if own is None else own)

    @property
    def statistics_seconds(self) -> float | None:
        """How long statistics are kept, in seconds; None: for ever."""
        age = _finite(cast("timedelta | None", self.statistics))
        return None if age is None else age.total_seconds()

    def limits(self) -> list[AgeLimit]:
        """Return what is to be deleted, the youngest first; states kept for ever are left out."""
        by_age: defaultdict[timedelta, list[JobStatus]] = defaultdict(list)
        for status in _statuses():
            age = self.age(status)
            if age is not None:
                by_age[age].append(status)
        return [
            AgeLimit(age.total_seconds(), tuple(by_age[age]), self._takes_earlier(age, by_age[age]))
            for age in sorted(by_age)
        ]

    def _takes_earlier(self, age: timedelta, statuses: list[JobStatus]) -> bool:
        if FINAL_STATES.isdisjoint(statuses):
            return False
        others = [self.age(status) for status in _statuses() if status not in FINAL_STATES]
        return any(other is None or other > age for other in others)


def as_retention(value: object, what: str = "retention") -> Retention | None:
    """Return what a user gave as one record: None, a duration for all states, or the record.

    Raises:
        TypeError, ValueError: it is something else, or negative.
    """
    if value is None or isinstance(value, Retention):
        return value
    if isinstance(value, timedelta | int | float) and not isinstance(value, bool):
        return Retention(default=_age(value, what))
    raise TypeError(
        f"{what} is None, a timedelta or pgq_trio.settings.Retention(...), got {value!r}"
    )


def _statuses() -> Iterator[JobStatus]:
    for field in fields(Retention):
        if field.name not in {"default", "statistics"}:
            yield cast("JobStatus", field.name)


def _age(value: object, what: str) -> timedelta:
    age = seconds(value, what)
    return FOREVER if age > _LONGEST.total_seconds() else timedelta(seconds=age)


def _finite(age: timedelta | None) -> timedelta | None:
    return None if age is None or age > _LONGEST else age
