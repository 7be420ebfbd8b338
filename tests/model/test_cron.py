"""Cron expressions: what is accepted, how it is spelled in the table, when it fires."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings, strategies as st

from pgq_trio.errors import RegistrationError
from pgq_trio.model.cron import CronExpression

BERLIN = ZoneInfo("Europe/Berlin")
SECOND = timedelta(seconds=1)

EXPRESSIONS = [
    "* * * * *",
    "*/5 * * * *",
    "7,37 3-5 * * *",
    "0 0 * * mon",
    "0 0 1 * fri",
    "0 12 L * *",
    "30 2 * * *",
    "0 0 * * 5#3",
    "0 0 15W * *",
    "0 0 29 2 *",
    "* * * * * *",
    "* * * * * */7",
    "30 4 * * * 15,45",
]
#: Half-hour and negative daylight saving, and none at all.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Asia/Kathmandu",
]
DAYS = st.dates(date(2000, 1, 1), date(2037, 1, 1))
MOMENTS = st.builds(datetime.combine, DAYS, st.times(timezones=st.just(UTC)))


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("*/5 * * * *", "2025-01-01T00:00:00", "2025-01-01T00:05:00"),
        ("*/5 * * * *", "2025-01-01T00:04:59.999999", "2025-01-01T00:05:00"),
        ("* * * * * */10", "2025-01-01T00:00:09.5", "2025-01-01T00:00:10"),
        ("* * * * * */10", "2025-01-01T00:00:10", "2025-01-01T00:00:20"),
        ("0 0 L * *", "2025-02-01T00:00:00", "2025-02-28T00:00:00"),
        ("0 0 29 2 *", "2025-01-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 * * sun", "2025-01-01T00:00:00", "2025-01-05T00:00:00"),
        ("@daily", "2025-01-01T00:00:00", "2025-01-02T00:00:00"),
    ],
)
def test_the_next_fire_time_is_later_than_the_moment(
    expression: str, after: str, expected: str
) -> None:
    cron = CronExpression.parse(expression)
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert cron.next_after(moment) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "expression",
    ["*/5  *\t* * *", " 0 0 * JAN Sun ", "@hourly", "@HOURLY", "0 0 L * *", "* * * * * 5"],
)
def test_the_normalised_text_is_pgqueuers(expression: str) -> None:
    # The line of PgQueuer's SchedulerManager.schedule that decides what stands in the table.
    theirs = " ".join(croniter(expression).expressions)
    assert CronExpression.parse(expression).normalised == theirs


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * 0 2025", "7 fields"),
        ("60 * * * *", "out of range"),
        ("x * * * *", "not acceptable"),
        ("@never", "bad cron expression '@never'"),
        ("*/0 * * * *", "step '0'"),
        ("0 0 30 2 *", "never fires"),
        ("R * * * *", "random"),
        ("1,R(2-5) * * * *", "bad cron expression"),
        ("H * * * *", "hash_id"),
        (None, "is a string, got None"),
    ],
)
def test_a_bad_expression_is_refused_with_a_sentence_that_says_why(
    expression: object, says: str
) -> None:
    with pytest.raises(RegistrationError, match=r".") as caught:
        CronExpression.parse(expression)
    assert says in str(caught.value)
    assert "'*/5 * * * *'" in str(caught.value) or "never fires" in str(caught.value)


def test_months_and_weekdays_with_an_r_are_not_random() -> None:
    assert CronExpression.parse("0 0 * mar,apr fri").normalised == "0 0 * mar,apr fri"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe", "../etc/passwd", "", None, 3])
def test_an_unknown_zone_is_refused(zone: object) -> None:
    with pytest.raises(RegistrationError, match=r"unknown time zone .*Europe/Berlin"):
        CronExpression.parse("* * * * *", zone)


def test_a_zone_may_be_given_as_an_object() -> None:
    cron = CronExpression.parse("0 8 * * *", BERLIN)
    assert cron == CronExpression.parse("0 8 * * *", "Europe/Berlin")
    assert cron.next_after(datetime(2025, 7, 1, tzinfo=UTC)) == datetime(2025, 7, 1, 6, tzinfo=UTC)


def test_a_local_time_that_is_left_out_fires_once_after_the_gap() -> None:
    cron = CronExpression.parse("15,45 2 * * *", BERLIN)
    before = datetime(2025, 3, 29, 23, tzinfo=UTC)
    first = cron.next_after(before)
    assert first == datetime(2025, 3, 30, 1, tzinfo=UTC)  # 03:00 local, the gap's end
    assert cron.next_after(first) == datetime(2025, 3, 31, 0, 15, tzinfo=UTC)


def test_a_local_time_that_exists_twice_fires_twice() -> None:
    cron = CronExpression.parse("30 2 * * *", BERLIN)
    first = cron.next_after(datetime(2025, 10, 25, 23, tzinfo=UTC))
    assert first == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    assert cron.next_after(first) == datetime(2025, 10, 26, 1, 30, tzinfo=UTC)


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        CronExpression.parse("* * * * *").next_after(datetime(2025, 1, 1))  # noqa: DTZ001


def test_the_zone_of_the_moment_does_not_matter() -> None:
    """Python subtracts two times of one zone by the wall clock, an hour off in this night."""
    cron = CronExpression.parse("*/10 * * * *")
    moment = datetime(2025, 10, 26, 1, 5, tzinfo=UTC)
    since = datetime(2025, 10, 25, 23, 0, tzinfo=UTC)
    last = cron.last_until(moment.astimezone(BERLIN), since=since.astimezone(BERLIN))
    assert last == datetime(2025, 10, 26, 1, 0, tzinfo=UTC)
    assert cron.previous_before(moment.astimezone(BERLIN)) == last
    assert cron.first_from(moment.astimezone(BERLIN)) == datetime(2025, 10, 26, 1, 10, tzinfo=UTC)


@settings(deadline=None)
@given(expression=st.sampled_from(EXPRESSIONS), zone=st.sampled_from(ZONES), moment=MOMENTS)
def test_fire_times_are_later_whole_seconds_and_the_same_from_everywhere(
    expression: str, zone: str, moment: datetime
) -> None:
    cron = CronExpression.parse(expression, zone)
    first = cron.next_after(moment)
    assert first > moment
    assert first.microsecond == 0
    assert first.tzinfo is UTC
    assert cron.first_from(first) == first
    assert cron.first_from(first - timedelta(microseconds=1)) == first
    # Nothing lies between: asked from half way, the answer is the same.
    assert cron.next_after(moment + (first - moment) / 2) == first
    assert cron.next_after(first) > first


@settings(deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(ZONES),
    start=MOMENTS,
    steps=st.integers(0, 40),
    into=st.floats(0, 0.99),
)
def test_the_last_fire_time_is_the_end_of_the_chain(
    expression: str, zone: str, start: datetime, steps: int, into: float
) -> None:
    cron = CronExpression.parse(expression, zone)
    chain = [cron.next_after(start)]
    for _ in range(steps + 1):
        chain.append(cron.next_after(chain[-1]))
    last, following = chain[-2], chain[-1]
    moment = last + (following - last) * into
    assert cron.last_until(moment, since=chain[0]) == last
    assert cron.previous_before(following) == last


def test_the_previous_fire_time_of_a_rare_expression_is_found() -> None:
    cron = CronExpression.parse("0 0 29 2 *")
    assert cron.previous_before(datetime(2025, 1, 1, tzinfo=UTC)) == datetime(
        2024, 2, 29, tzinfo=UTC
    )
