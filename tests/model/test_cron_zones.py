"""Cron expressions where the clock on the wall is changed: stated cases, and a slow oracle."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from dateutil import tz  # type: ignore[import-untyped]
from hypothesis import given, settings, strategies as st

from pgq_trio.model.cron import CronExpression
from pgq_trio.model.firing import Fire, Skip, passed_meanwhile, plan

MINUTE = timedelta(minutes=1)
#: Nights in which clocks are changed, as the days in UTC around the change.
CHANGES = {
    "Europe/Berlin": ["2025-03-30", "2025-10-26"],
    "Europe/Dublin": ["2025-03-30", "2025-10-26"],  # its winter time is the "saving" one
    "America/New_York": ["2025-03-09", "2025-11-02"],
    "America/Sao_Paulo": ["2018-11-04", "2018-02-18"],  # at midnight, in the south
    "Australia/Lord_Howe": ["2025-04-05", "2025-10-04"],  # by half an hour
    "Pacific/Apia": ["2011-04-02", "2011-09-24", "2011-12-30"],  # the last one skips a day
    "Africa/Casablanca": ["2025-02-23", "2025-04-06"],
    "Asia/Kathmandu": ["2025-03-30"],  # 5:45 ahead, never changed
}
NIGHTS = [(zone, day) for zone, days in CHANGES.items() for day in days]
EXPRESSIONS = [
    "* * * * *",
    "*/15 * * * *",
    "0 * * * *",
    "30 * * * *",
    "30 2 * * *",
    "15,45 2 * * *",
    "30 2,3 * * *",
    "0 */2 * * *",
    "*/20 1-3 * * *",
    "45 1 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "30 23 * * *",
    "0 9 * * fri",
    "0 12 30 12 *",
    "30 2 26 10 *",
]


def chain(cron: CronExpression, start: datetime, end: datetime) -> list[datetime]:
    """All fire times after start until end, each asked for from the one before."""
    found: list[datetime] = []
    moment = cron.next_after(start)
    while moment <= end:
        found.append(moment)
        moment = cron.next_after(moment)
    return found


def local(zone: str, day: str, expression: str, *, days: int = 1) -> list[str]:
    """Fire times of some days around a change, as the clock on the wall shows them."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    cron = CronExpression.parse(expression, zone)
    moments = chain(cron, start - timedelta(seconds=1), start + timedelta(days=days))
    return [moment.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z") for moment in moments]


@cache
def walls(zone: str, day: str) -> list[tuple[datetime, datetime]]:
    """Each minute of some days in UTC, and what the clock on the wall shows then."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=12)
    minutes = [start + n * MINUTE for n in range(1, 40 * 60 + 1)]
    return [(m, m.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for m in minutes]


def around(zone: str, day: str) -> list[tuple[datetime, datetime]]:
    """Those of them within three hours of the change, or of midnight where there is none."""
    minutes = walls(zone, day)
    steps = [wall - before for (_, before), (_, wall) in pairwise(minutes)]
    change = next((n for n, step in enumerate(steps) if step != MINUTE), 12 * 60)
    return minutes[max(0, change - 180) : change + 180]


def fitting(expression: str, first: datetime, last: datetime) -> set[datetime]:
    """The times between two that fit an expression, of a clock that nobody changes."""
    iterator = croniter(expression, first - MINUTE)
    found: set[datetime] = set()
    while (moment := iterator.get_next(datetime)) <= last:
        found.add(moment)
    return found


@pytest.mark.parametrize(("zone", "day"), NIGHTS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_fire_times_are_those_that_the_wall_shows_and_one_after_each_gap(
    expression: str, zone: str, day: str
) -> None:
    minutes = walls(zone, day)
    shown = [wall for _, wall in minutes]
    fit = fitting(expression, min(shown), max(shown))
    expected: list[datetime] = []
    for (_, before), (moment, wall) in pairwise(minutes):
        is_gap = wall - before > MINUTE
        left_out = is_gap and any(before < each < wall for each in fit)
        if wall in fit or (left_out and expression.split()[1] != "*"):
            expected.append(moment)
    cron = CronExpression.parse(expression, zone)
    start, end = minutes[0][0], minutes[-1][0]
    assert chain(cron, start, end) == expected
    pairs = list(pairwise(expected))
    for earlier, moment in pairs[:: len(pairs) // 10 + 1]:
        assert cron.previous_before(moment) == earlier
        assert cron.last_until(moment - MINUTE / 2, since=expected[0]) == earlier
        assert cron.next_after(moment - MINUTE / 2) == moment


@pytest.mark.parametrize(
    ("zone", "day", "expression", "times"),
    [
        ("Europe/Berlin", "2025-03-30", "30 2 * * *", ["30 03:00+0200", "31 02:30+0200"]),
        ("Europe/Berlin", "2025-10-26", "30 2 * * *", ["26 02:30+0200", "26 02:30+0100"]),
        ("Europe/Berlin", "2025-03-30", "15,45 2 * * *", ["30 03:00+0200", "31 02:15+0200"]),
        ("America/New_York", "2025-03-09", "30 2 * * *", ["09 03:00-0400"]),
        ("America/New_York", "2025-11-02", "30 1 * * *", ["02 01:30-0400", "02 01:30-0500"]),
        ("America/New_York", "2025-11-02", "30 2 * * *", ["02 02:30-0500"]),
        ("Australia/Lord_Howe", "2025-10-05", "15 2 * * *", ["05 02:30+1100", "06 02:15+1100"]),
        ("Australia/Lord_Howe", "2025-10-05", "30 2 * * *", ["05 02:30+1100"]),
        ("Australia/Lord_Howe", "2025-04-06", "45 1 * * *", ["06 01:45+1100", "06 01:45+1030"]),
        ("Asia/Kathmandu", "2025-03-30", "30 2 * * *", ["30 02:30+0545"]),
        (
            "Pacific/Apia",
            "2011-12-29",
            "30 2 * * *",
            ["29 02:30-1000", "31 00:00+1400", "31 02:30+1400"],
        ),
    ],
)
def test_daily_schedules(zone: str, day: str, expression: str, times: list[str]) -> None:
    found = local(zone, day, expression, days=2)
    assert found[: len(times)] == times
    assert len(found) <= len(times) + 1


@pytest.mark.parametrize(
    ("zone", "day", "times"),
    [
        ("Europe/Berlin", "2025-03-30", ["01:00+0100", "03:00+0200", "04:00+0200"]),
        ("Europe/Berlin", "2025-10-26", ["01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100"]),
        ("Australia/Lord_Howe", "2025-10-05", ["01:00+1030", "03:00+1100", "04:00+1100"]),
        ("Australia/Lord_Howe", "2025-04-06", ["01:00+1100", "02:00+1030", "03:00+1030"]),
    ],
)
def test_hourly_schedules(zone: str, day: str, times: list[str]) -> None:
    found = [time.split()[1] for time in local(zone, day, "0 * * * *")]
    assert found[1 : 1 + len(times)] == times


@pytest.mark.parametrize(("zone", "day"), NIGHTS)
def test_a_minutely_schedule_fires_every_minute_whatever_the_clock_does(
    zone: str, day: str
) -> None:
    cron = CronExpression.parse("* * * * *", zone)
    minutes = [moment for moment, _ in around(zone, day)]
    assert chain(cron, minutes[0], minutes[-1]) == minutes[1:]


def test_seconds_in_a_gap_are_made_up_once_at_its_end() -> None:
    cron = CronExpression.parse("30 2 * * * */10", "Europe/Berlin")
    before = datetime(2025, 3, 30, 0, 59, tzinfo=UTC)
    first = cron.next_after(before)
    assert first == datetime(2025, 3, 30, 1, 0, tzinfo=UTC)
    assert cron.next_after(first) == datetime(2025, 3, 31, 0, 30, tzinfo=UTC)


def test_missed_fire_times_are_counted_in_real_time() -> None:
    """Three o'clock in the morning after, both days: one hour of the night less, and one more."""
    for day, hours in (("2025-03-30", 2), ("2025-10-26", 4)):
        berlin = ZoneInfo("Europe/Berlin")
        start = datetime.fromisoformat(day).replace(tzinfo=berlin).astimezone(UTC)
        now = start.astimezone(berlin).replace(hour=3).astimezone(UTC)
        cron = CronExpression.parse("0 * * * *", "Europe/Berlin")
        decision = plan(start, now=now, cron=cron, misfire="last")
        assert decision == Fire(now, hours, now + timedelta(hours=1))
        counted, following = passed_meanwhile(start, now=now, cron=cron)
        assert (counted, following) == (hours + 1, now + timedelta(hours=1))
        late = plan(start, now=now + 30 * MINUTE, cron=cron, misfire="skip")
        assert late == Skip(now + timedelta(hours=1))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York"])
def test_zones_of_another_library_mean_the_same(zone: str) -> None:
    for day in CHANGES[zone]:
        start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1)
        for expression in ("30 2 * * *", "45 1 * * *", "*/20 1-3 * * *"):
            ours = CronExpression.parse(expression, zone)
            other = CronExpression.parse(expression, tz.gettz(zone))
            end = start + timedelta(days=3)
            assert chain(ours, start, end) == chain(other, start, end)


CRONS = st.builds(CronExpression.parse, st.sampled_from(EXPRESSIONS), st.sampled_from([*CHANGES]))


@settings(deadline=None)
@given(cron=CRONS, night=st.sampled_from(NIGHTS), data=st.data())
def test_the_next_fire_time_grows_with_the_moment_and_none_is_lost_between(
    cron: CronExpression, night: tuple[str, str], data: st.DataObject
) -> None:
    start = datetime.fromisoformat(night[1]).replace(tzinfo=UTC) - timedelta(days=1)
    offsets = st.timedeltas(timedelta(0), timedelta(days=2, hours=12))
    one, other = sorted(start + data.draw(offsets) for _ in range(2))
    first, second = cron.next_after(one), cron.next_after(other)
    assert first > one
    assert first <= second
    # Either the first one lies between both moments, or both mean the same one.
    assert first <= other or first == second


@settings(deadline=None)
@given(
    expression=st.sampled_from([*EXPRESSIONS, "* * * * * */7"]),
    zone=st.sampled_from([*CHANGES]),
    moment=st.datetimes(
        datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001
    ),
)  # fmt: skip
def test_the_wall_fits_the_expression_unless_a_gap_ends(
    expression: str, zone: str, moment: datetime
) -> None:
    found = CronExpression.parse(expression, zone).next_after(moment)
    wall = found.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    before = (found - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    assert croniter.match(expression, wall) or wall - before > timedelta(seconds=1)


def test_counting_a_year_of_seconds_in_a_zone_is_fast() -> None:
    cron = CronExpression.parse("* * * * * *", "Europe/Berlin")
    first = datetime(2025, 1, 1, tzinfo=UTC)
    began = time.perf_counter()
    counted, _ = passed_meanwhile(first, now=first + timedelta(days=365), cron=cron)
    assert counted == 1001
    assert time.perf_counter() - began < 5
