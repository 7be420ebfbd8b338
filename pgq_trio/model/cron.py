"""Cron expressions in a time zone: when they fire; knows no clock, no table and no schedule."""

from __future__ import annotations

import re
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
#: Any moment will do to see whether an expression fires at all.
_REFERENCE = datetime(2024, 1, 1, tzinfo=UTC)
#: Steps of doubling seconds that reach back 68 years; croniter itself looks 50 years ahead.
_DOUBLINGS = 31


class _Iterator(Protocol):
    """What is used of `croniter.croniter`, which has no types of its own."""

    expressions: list[str]

    def get_next(self, ret_type: type[datetime], start_time: datetime) -> datetime: ...


@dataclass(frozen=True, slots=True)
class CronExpression:
    """A checked cron expression and the zone it is read in.

    Daylight saving is croniter's decision: a local time that exists twice fires twice, and local
    times that are left out fire once, together, at the first moment after the gap. In UTC, the
    default, nothing of this happens.

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
        found = self._iterator.get_next(datetime, moment.astimezone(self.zone))
        return found.astimezone(UTC)

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
