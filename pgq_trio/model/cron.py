"""Cron expressions in a time zone: when they fire; knows no clock, no table and no schedule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol, Self, cast
from zoneinfo import ZoneInfo

from croniter import croniter

from pgq_trio.errors import RegistrationError

_SYNTAX = (
    "give five fields, minute hour day month weekday, for example '*/5 * * * *', "
    "or six with the seconds last, for example '* * * * * */10'"
)
#: croniter's random fields: R, R(1-9), R/5.
_RANDOM = re.compile(r"(^|,)r([(/,]|$)")
_SECOND = timedelta(seconds=1)
#: Longer than any offset from UTC, and than any step that a wall clock makes: Samoa skipped a day.
_DAY = timedelta(days=1)
_HOUR_FIELD = 1
#: Any moment will do to see whether an expression fires at all.
_REFERENCE = datetime(2024, 1, 1, tzinfo=UTC)
#: Steps of doubling seconds that reach back 68 years; croniter itself looks 50 years ahead.
_DOUBLINGS = 31


class _Iterator(Protocol):
    """What is used of `croniter.croniter`, which has no types of its own."""

    expressions: list[str]
    expanded: list[list[object]]

    def get_next(self, ret_type: type[datetime], start_time: datetime) -> datetime: ...


@dataclass(frozen=True, slots=True)
class CronExpression:
    """A checked cron expression and the zone it is read in.

    The fields are compared with the clock on the wall of the zone. Where that clock is changed:

    - What it shows twice fires twice: "30 2 * * *" in the night in which summer time ends, if
      half past two comes again.
    - What it leaves out fires at the first moment after the gap, once for all that is left out:
      "30 2 * * *" at 03:00 in the night in which summer time begins. A schedule of every hour,
      with `*` as its hour, has nothing to make up and goes on with its next time.

    In UTC, the default, nothing of this happens, and no zone makes a fire time come early, get lost
    or come twice at one moment.

    Attributes:
        normalised: the expression as it stands in the schedules table, spelled as PgQueuer
            spells it (lower case, single blanks, aliases such as `@daily` written out), so that
            both packages mean the same row.
        zone: the zone in which the fields are read; it is not stored in the table.
    """

    normalised: str
    zone: tzinfo
    _iterator: _Iterator = field(repr=False, compare=False)

    @classmethod
    def parse(cls, expression: object, timezone: object = "UTC") -> Self:
        """Check an expression and a zone.

        Args:
            expression: croniter's syntax, five fields, or six with the seconds last.
            timezone: an IANA name such as "Europe/Berlin", or a `tzinfo`.

        Raises:
            RegistrationError: a bad expression, one that never fires or fires at random, an
                unknown zone.
        """
        zone = _zone(timezone)
        iterator = _iterator(expression)
        cron = cls(" ".join(iterator.expressions), zone, iterator)
        try:
            cron.next_after(_REFERENCE)
        except ValueError as exc:
            raise RegistrationError(
                f"the cron expression {expression!r} never fires: no date fits its fields"
            ) from exc
        return cron

    def next_after(self, moment: datetime) -> datetime:
        """Return the first fire time later than an aware moment, in UTC, a whole second.

        Raises:
            ValueError: the moment has no time zone.
        """
        if moment.tzinfo is None:
            raise ValueError(f"{moment.isoformat()} has no time zone; use an aware datetime")
        moment = moment.astimezone(UTC)
        if self.zone is UTC:
            return self._next_on_wall(moment.replace(tzinfo=None)).replace(tzinfo=UTC)
        found = self._first(_wall(moment, self.zone), moment)
        if (turned := _turned_back(moment, self.zone)) is not None:
            before = _wall(turned, self.zone) - _SECOND
            found = min(found, self._first(before, turned - _SECOND))
        return found

    def _first(self, wall: datetime, after: datetime) -> datetime:
        """Return the first fire time after a moment, of those that are later on the wall."""
        while True:
            wall = self._next_on_wall(wall)
            moments = _moments(wall, self.zone)
            for moment in moments:
                if moment > after:
                    return moment
            if not moments:
                end = _end_of_gap(wall, self.zone)
                if not self._is_hourly and end > after:
                    return end
                wall = _wall(end, self.zone) - _SECOND

    def _next_on_wall(self, wall: datetime) -> datetime:
        """Return the next fitting time of a clock that nobody changes; both without a zone."""
        return self._iterator.get_next(datetime, wall)

    @property
    def _is_hourly(self) -> bool:
        return self._iterator.expanded[_HOUR_FIELD] == ["*"]

    def first_from(self, moment: datetime) -> datetime:
        """Return the first fire time at or after an aware moment."""
        moment = moment.astimezone(UTC)  # times of one zone are subtracted by the wall clock
        whole = moment.replace(microsecond=0)
        return self.next_after(whole if whole < moment else whole - _SECOND)

    def last_until(self, moment: datetime, *, since: datetime) -> datetime:
        """Return the last fire time at or before a moment, given one that is not later.

        The cost grows with the logarithm of the span: about 25 steps for a year of seconds.
        """
        moment, since = moment.astimezone(UTC), since.astimezone(UTC)
        if self.next_after(since) > moment:
            return since
        near, far = 0, int((moment - since).total_seconds()) + 1
        while far - near > 1:
            middle = (near + far) // 2
            if self.next_after(since + middle * _SECOND) > moment:
                far = middle
            else:
                near = middle
        return self.next_after(since + near * _SECOND)

    def previous_before(self, moment: datetime) -> datetime | None:
        """Return the last fire time earlier than an aware moment; None in the last 68 years."""
        moment = moment.astimezone(UTC)
        for exponent in range(_DOUBLINGS + 1):
            found = self.next_after(moment - 2**exponent * _SECOND)
            if found < moment:
                return self.last_until(moment - timedelta(microseconds=1), since=found)
        return None


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    """Return what the clock on the wall shows, without a zone."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _moments(wall: datetime, zone: tzinfo) -> list[datetime]:
    """Return when the clock on the wall shows this, in order: once, twice or never.

    Only the way from UTC to the wall is asked for: the way back means something else in each
    library of zones.
    """
    utc = wall.replace(tzinfo=UTC)
    offsets = [_wall(utc + day, zone) - wall - day for day in (-_DAY, _DAY)]
    found = {utc - offset for offset in offsets if _wall(utc - offset, zone) == wall}
    return sorted(found)


def _end_of_gap(wall: datetime, zone: tzinfo) -> datetime:
    """Return the first moment after a time that the clock on the wall leaves out."""
    utc = wall.replace(tzinfo=UTC)
    return _first_second(utc - _DAY, utc + _DAY, lambda moment: _wall(moment, zone) > wall)


def _turned_back(moment: datetime, zone: tzinfo) -> datetime | None:
    """Return the moment within a day at which the clock on the wall will be turned back.

    None unless it will be turned back to the present time or to an earlier one, which is when some
    of what it has shown already is still to come once more.
    """
    wall = _wall(moment, zone)
    if _wall(moment + _DAY, zone) >= wall + _DAY:
        return None
    whole = moment.replace(microsecond=0)
    offset = _wall(whole, zone) - whole.replace(tzinfo=None)
    turned = _first_second(
        whole, whole + _DAY, lambda at: _wall(at, zone) - at.replace(tzinfo=None) < offset
    )
    return turned if _wall(turned, zone) <= wall else None


def _first_second(
    before: datetime, until: datetime, is_there: Callable[[datetime], bool]
) -> datetime:
    """Return the first second, after one and not after another, from which on something is so."""
    near, far = 0, int((until - before).total_seconds())
    while far - near > 1:
        middle = (near + far) // 2
        if is_there(before + middle * _SECOND):
            far = middle
        else:
            near = middle
    return before + far * _SECOND


def _iterator(expression: object) -> _Iterator:
    if not isinstance(expression, str):
        raise RegistrationError(f"a cron expression is a string, got {expression!r}; {_SYNTAX}")
    count = len(expression.split())
    if count not in (5, 6) and not expression.startswith("@"):
        raise RegistrationError(f"bad cron expression {expression!r}: {count} fields; {_SYNTAX}")
    try:
        found = cast("_Iterator", croniter(expression))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
        raise RegistrationError(
            f"bad cron expression {expression!r}: {str(exc).rstrip('.')}; {_SYNTAX}"
        ) from exc
    if any(_RANDOM.search(part) for part in found.expressions):
        raise RegistrationError(
            f"bad cron expression {expression!r}: a random field means another time in each "
            f"process, so nobody could agree on one fire; {_SYNTAX}"
        )
    return found


def _zone(timezone: object) -> tzinfo:
    if isinstance(timezone, tzinfo):
        return timezone
    if timezone == "UTC":  # needs no database of zones
        return UTC
    try:
        return ZoneInfo(cast("str", timezone))
    # A missing zone is a KeyError, a malformed key a ValueError, a folder's name an OSError.
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as exc:
        raise RegistrationError(
            f"unknown time zone {timezone!r}: give an IANA name, for example 'Europe/Berlin' or "
            "'UTC', or a tzinfo; a system without zone data needs the package tzdata"
        ) from exc
