"""What a schedule fires now and when next, from its row and the store's now; it runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgq_trio.model.cron import CronExpression
from pgq_trio.types import Misfire

#: How many missed fire times are counted, at most: a schedule that fires every second and was
#: down for a year must not cost 31 million steps. Counting this many takes 16-60 ms.
MAX_MISSED = 1000

#: Seconds that a fire may be late under "skip" without a grace of its own. A worker that is alive
#: fires within 50 ms, so one second means that nobody was there.
SKIP_GRACE = 1.0

#: PgQueuer calculates next_run from the clock of its own host and cuts it to seconds, so its rows
#: may stand up to this much before the fire time they mean.
_PEER_SLACK = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Fire:
    """Run the handler once.

    Attributes:
        fire_time: the fire time this run answers.
        missed: fire times before it that this run stands for as well, at most `MAX_MISSED`.
        next_run: the fire time after it.
    """

    fire_time: datetime
    missed: int
    next_run: datetime


@dataclass(frozen=True, slots=True)
class Skip:
    """Run nothing, it is too late for that; go on at `next_run`."""

    next_run: datetime


def is_triggered(next_run: datetime) -> bool:
    """Whether somebody asked for this run: fire times are whole seconds."""
    return next_run.microsecond != 0


def due_at(next_run: datetime, cron: CronExpression) -> datetime:
    """Return when a row with this `next_run` is due.

    That is `next_run` itself, also where it is no fire time of the expression: somebody may have
    set it by hand to have the schedule run now. Only a fire time within the two seconds after it
    is waited for, since a PgQueuer worker meant that one; not so if it was triggered.
    """
    next_run = next_run.astimezone(UTC)
    if is_triggered(next_run):
        return next_run
    first = cron.first_from(next_run)
    return first if first - next_run <= _PEER_SLACK else next_run


def plan(
    next_run: datetime,
    *,
    now: datetime,
    cron: CronExpression,
    misfire: Misfire,
    grace: float | None = None,
) -> Fire | Skip | None:
    """Decide what a schedule does now.

    "last" answers all fire times that passed with one run, that of the last one. "all" runs each,
    in order, one for each plan. "skip" runs the last one if it is not later than the grace, and
    nothing for those before it. What was triggered makes one run, however late, under each.

    Args:
        next_run: the first fire time that nobody answered, or when the schedule was triggered.
        now: the store's now; both are aware.
        cron: when the schedule fires.
        misfire: the policy.
        grace: fire times that passed more than so many seconds ago are left out under every
            policy; None: all count, but `SKIP_GRACE` under "skip".

    Returns:
        None when nothing is due yet.
    """
    now = now.astimezone(UTC)
    first = due_at(next_run, cron)
    if first > now:
        return None
    decision = _by_policy(first, now, cron, misfire, grace)
    return _asked_for(first, decision) if is_triggered(first) else decision


def _by_policy(
    first: datetime, now: datetime, cron: CronExpression, misfire: Misfire, grace: float | None
) -> Fire | Skip:
    if grace is None and misfire == "skip":
        grace = SKIP_GRACE
    if misfire == "all":
        return _one_by_one(first, now, cron, grace)
    last, missed = _last(first, now, cron)
    if _is_late(last, now, grace):
        return Skip(cron.next_after(now))
    return Fire(last, missed if misfire == "last" else 0, cron.next_after(last))


def plan_again(
    next_run: datetime,
    *,
    now: datetime,
    cron: CronExpression,
    misfire: Misfire,
    grace: float | None = None,
) -> Fire | Skip | None:
    """Decide what becomes of a fire whose worker died: its row already says the fire after it.

    The arguments are those of `plan`; the fire time lost is the last one before `next_run`. Where
    the dead run had been triggered, that is as good as any.
    """
    next_run, now = next_run.astimezone(UTC), now.astimezone(UTC)
    lost = cron.previous_before(next_run)
    anchor = now if lost is None or lost > now else lost
    decision = plan(anchor, now=now, cron=cron, misfire=misfire, grace=grace)
    if is_triggered(next_run) and next_run <= now:  # while it ran
        return _asked_for(next_run, decision)
    return decision


def passed_meanwhile(
    next_run: datetime, *, now: datetime, cron: CronExpression
) -> tuple[int, datetime]:
    """Return how many fire times came while a schedule ran, and the first one still to come.

    Args:
        next_run: the first of them, not later than now.
        now: the end of the run.
        cron: when the schedule fires.

    Returns:
        at most `MAX_MISSED` + 1, and a fire time later than now.
    """
    now = now.astimezone(UTC)
    _, before_last = _last(next_run.astimezone(UTC), now, cron)
    return before_last + 1, cron.next_after(now)


def _asked_for(triggered: datetime, decision: Fire | Skip | None) -> Fire | Skip | None:
    """Return a run in place of none: who asks for one gets it whatever the policy says."""
    return Fire(triggered, 0, decision.next_run) if isinstance(decision, Skip) else decision


def _one_by_one(
    first: datetime, now: datetime, cron: CronExpression, grace: float | None
) -> Fire | Skip:
    if _is_late(first, now, grace):
        first = cron.first_from(now - timedelta(seconds=grace or 0.0))
        if first > now:
            return Skip(first)
    return Fire(first, 0, cron.next_after(first))


def _is_late(fire_time: datetime, now: datetime, grace: float | None) -> bool:
    return grace is not None and (now - fire_time).total_seconds() > grace


def _last(first: datetime, now: datetime, cron: CronExpression) -> tuple[datetime, int]:
    """Return the last fire time until now, and how many were before it from `first` on."""
    last, missed = first, 0
    while (following := cron.next_after(last)) <= now:
        if missed == MAX_MISSED:
            return cron.last_until(now, since=last), missed
        last = following
        missed += 1
    return last, missed
