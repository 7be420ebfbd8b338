"""The schedule of the machine as plain Python: which fire times must have been answered.

It fires every half minute and makes up for each fire time that was missed, one by one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pgq_trio import Schedule

#: The expression, seconds last, and what it means.
EXPRESSION = "* * * * * */30"
PERIOD = timedelta(seconds=30)

#: On PostgreSQL, where the clock is real, it fires when it is triggered.
RARELY = "0 0 29 2 *"

#: A run whose worker died is run again when its lease is over, in seconds.
STALE = 45.0

#: How late a fire may be.
LATE = timedelta(seconds=0.05)


@dataclass(eq=False)
class Fires:
    """What has fired, and what must have.

    Attributes:
        regular: how often each fire time was answered.
        asked: when each of the other fires ended, which somebody has asked for.
        triggers: how often somebody has asked.
        paused: whether it is paused, as the queue says.
        mishaps: workers that died or fell silent: each may have left a fire half way.
        last_mishap: when the last of them did.
    """

    is_regular: bool
    regular: Counter[datetime] = field(default_factory=Counter[datetime])
    asked: list[float] = field(default_factory=list[float])
    triggers: int = 0
    triggered_at: float | None = None
    is_paused: bool = False
    paused_since: float | None = None
    mishaps: int = 0
    last_mishap: float = -STALE
    problems: list[str] = field(default_factory=list[str])

    def fired(self, fire_time: datetime, at: float) -> None:
        """A handler has run to its end."""
        if self.paused_since is not None and at > self.paused_since:
            self.problems.append(
                f"the schedule fired at {at:g}, paused since {self.paused_since:g}"
            )
        if self.triggered_at is not None and at >= self.triggered_at:
            self.triggered_at = None
        whole = fire_time.replace(microsecond=0)
        # What was due when it was triggered keeps its fire time, marked with a microsecond.
        if self.is_regular and fire_time.microsecond <= 1 and whole.second % 30 == 0:
            self.regular[whole] += 1
        else:
            self.asked.append(at)

    def mishap(self, at: float) -> None:
        """A worker has died or fallen silent."""
        self.mishaps += 1
        self.last_mishap = at

    def wrong(
        self, row: Schedule | None, now: datetime, at: float, *, is_served: bool
    ) -> str | None:
        """Return what is not as it has to be once all is quiet."""
        repeated = sum(self.regular.values()) - len(self.regular)
        if repeated > self.mishaps:
            return f"fire times were answered twice: {self.regular}"
        if len(self.asked) > self.triggers:
            return f"it fired {len(self.asked)} times out of turn, triggered {self.triggers} times"
        if row is None:
            return "it has no row" if is_served else None
        if (row.status == "canceled") != self.is_paused:
            return f"it is {row.status}, and paused: {self.is_paused}"
        due = self._due(row, now)
        if early := set(self.regular) - due:
            return f"it fired at {sorted(early)}, which were no fire times until now"
        if not is_served or self.is_paused or at < self.last_mishap + STALE:
            return None
        if row.status != "queued":
            return f"it is {row.status}, and nobody died"
        if self.triggered_at is not None:
            return f"it was triggered at {self.triggered_at:g} and has not fired"
        missing = {time for time in due - set(self.regular) if time <= now - LATE}
        return f"fire times without an answer: {sorted(missing)}" if missing else None

    def _due(self, row: Schedule, now: datetime) -> set[datetime]:
        if not self.is_regular:
            return set()
        first = row.created.replace(microsecond=0)
        first += timedelta(seconds=30 - first.second % 30)
        count = (now - first) // PERIOD + 1
        return {first + number * PERIOD for number in range(count)}
