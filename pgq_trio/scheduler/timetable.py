"""What is known of the schedules' rows, and what follows from it: what is due, when to look again.

Synchronous and without a clock: every `now` is an argument, on the store's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pgq_trio.abc import NewSchedule, Snapshot
from pgq_trio.model.firing import Fire, Skip, due_at, plan, plan_again
from pgq_trio.models import Schedule
from pgq_trio.scheduler.registry import ScheduleEntry, ScheduleKey

#: Seconds after its last heartbeat at which a run counts as dead; fixed, as in PgQueuer, since
#: all workers on one table must agree.
STALE_AFTER = 30.0

#: The row says nothing more than that another worker still runs it while the next fire time has
#: come. That worker fires again by itself; should it go instead, this is how late we notice.
_OVERDUE_LOOK = timedelta(seconds=5)

#: The status of a paused row, in which neither package fires it.
PAUSED = "canceled"

#: A heartbeat has to be *older* than the timeout.
_STALE = timedelta(seconds=STALE_AFTER, milliseconds=10)


@dataclass(frozen=True, slots=True)
class Due:
    """One thing to do now: claim this row, then do what was decided.

    Attributes:
        missed_until: fire times until then were missed before the schedule ran, which is a matter
            of its misfire policy; later ones that come while it runs are skipped.
    """

    entry: ScheduleEntry
    row: Schedule
    decision: Fire | Skip
    missed_until: datetime


class Timetable:
    """The rows of the registered schedules, and which of them are busy here."""

    def __init__(self, entries: Iterable[ScheduleEntry]) -> None:
        self._entries = {entry.key: entry for entry in entries}
        self._rows: dict[ScheduleKey, Schedule] = {}
        self._busy: set[ScheduleKey] = set()
        self._due_at: dict[ScheduleKey, tuple[datetime, datetime]] = {}
        self._missed_until: dict[ScheduleKey, datetime] = {}
        self._seen: datetime | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ScheduleEntry]:
        return iter(self._entries.values())

    def missing(self, snapshot: Snapshot) -> list[NewSchedule]:
        """Return the rows that are not in the table yet, due at their first fire time from now."""
        there = {(row.entrypoint, row.expression) for row in snapshot.schedules}
        return [
            NewSchedule(entry.name, entry.cron.normalised, entry.cron.next_after(snapshot.now))
            for entry in self
            if entry.key not in there
        ]

    def outdated(self, snapshot: Snapshot) -> list[int]:
        """Return the ids of rows that `clean_old` asks to delete."""
        names = {entry.name for entry in self if entry.clean_old}
        return [
            row.id
            for row in snapshot.schedules
            if row.entrypoint in names and (row.entrypoint, row.expression) not in self._entries
        ]

    def update(self, snapshot: Snapshot) -> None:
        """Take over what the table says."""
        self._seen = snapshot.now.astimezone(UTC)
        rows = {(row.entrypoint, row.expression): _in_utc(row) for row in snapshot.schedules}
        self._rows = {key: rows[key] for key in self._entries if key in rows}

    def due(self, now: datetime) -> list[Due]:
        """Return what is to be claimed now, the longest due first."""
        found: list[Due] = []
        for key, row in self._rows.items():
            if key in self._busy or not self._may_be_due(key, row, now):
                continue
            entry = self._entries[key]
            if (decision := _decide(entry, row, now)) is not None:
                found.append(Due(entry, row, decision, self._missed(key, row, now)))
        found.sort(key=lambda due: due.row.next_run)
        return found

    def next_look(self) -> datetime | None:
        """Return when the next thing is due as far as the rows tell; None: nothing is."""
        return min(
            (
                self._look_at(key, row)
                for key, row in self._rows.items()
                if key not in self._busy and row.status != PAUSED
            ),
            default=None,
        )

    def begin(self, due: Due) -> None:
        """Note that a row is busy here, from before its claim on."""
        self._busy.add(due.entry.key)

    def lost(self, due: Due, now: datetime) -> None:
        """Note that another worker was first: most likely it runs the same fire.

        Unless a look has seen meanwhile what became of the row, such as a trigger.
        """
        if self._rows.get(due.entry.key) == due.row:
            self._rows[due.entry.key] = replace(
                due.row, status="picked", heartbeat=now, next_run=due.decision.next_run
            )

    def changed(self, entry: ScheduleEntry, row: Schedule, *, before: Schedule) -> None:
        """Note what a claim, or the end of its run, made of a row.

        Either sets `updated`: a look that has seen this one was later than the change, if earlier
        than its reply, and so was one that has seen no row.
        """
        known = self._rows.get(entry.key)
        if known is not None and (known == _in_utc(before) or known.updated != row.updated):
            self._rows[entry.key] = _in_utc(row)

    def end(self, entry: ScheduleEntry) -> None:
        """Note that a row is not busy here any more."""
        self._busy.discard(entry.key)

    def _may_be_due(self, key: ScheduleKey, row: Schedule, now: datetime) -> bool:
        return row.status != PAUSED and (row.status != "queued" or self._due(key, row) <= now)

    def _missed(self, key: ScheduleKey, row: Schedule, now: datetime) -> datetime:
        """Return the moment until which fire times were missed, not skipped.

        That is now, and under "all" as long as the missed ones are made up what it was when that
        began. Otherwise a schedule that runs longer than from one fire time to the next would never
        be done with it.
        """
        until = self._missed_until.get(key)
        if until is None or until < row.next_run:
            until = self._missed_until[key] = now
        return until

    def _due(self, key: ScheduleKey, row: Schedule) -> datetime:
        """Return when a row is due; remembered, since every look asks and few rows change."""
        known = self._due_at.get(key)
        if known is None or known[0] != row.next_run:
            due = due_at(row.next_run, self._entries[key].cron)
            known = self._due_at[key] = row.next_run, due
        return known[1]

    def _look_at(self, key: ScheduleKey, row: Schedule) -> datetime:
        due = self._due(key, row)
        if row.status == "queued" or self._seen is None:
            return due
        if due <= self._seen:
            due = self._seen + _OVERDUE_LOOK
        return min(due, row.heartbeat + _STALE)


def _decide(entry: ScheduleEntry, row: Schedule, now: datetime) -> Fire | Skip | None:
    if row.status == "queued":
        decide = plan
    elif now - row.heartbeat > timedelta(seconds=STALE_AFTER):
        decide = plan_again
    else:
        return None
    return decide(
        row.next_run, now=now, cron=entry.cron, misfire=entry.misfire, grace=entry.misfire_grace
    )


def _in_utc(row: Schedule) -> Schedule:
    # Python compares and subtracts times of one zone by the clock on the wall.
    return replace(
        row, next_run=row.next_run.astimezone(UTC), heartbeat=row.heartbeat.astimezone(UTC)
    )
