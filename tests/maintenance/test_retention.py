"""How long the history is kept: what users may write, and what it comes to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgq_trio.model.retention import AgeLimit, as_retention
from pgq_trio.settings import FOREVER, Retention, Settings

DAY = timedelta(days=1)


def test_equal_ages_are_equal_and_hashable() -> None:
    one, other = Retention(default=86_400, failed=1.5), Retention(default=DAY, failed=1.5)
    assert one == other
    assert hash(one) == hash(other)
    assert one != Retention(default=DAY)
    assert hash(Settings(retention=one)) == hash(Settings(retention=other))


def test_ages_by_state() -> None:
    retention = Retention(default=DAY, exception=30 * DAY, failed=FOREVER, queued=0)
    assert retention.age("successful") == DAY
    assert retention.age("exception") == 30 * DAY
    assert retention.age("failed") is None
    assert retention.age("queued") == timedelta(0)
    assert Retention().age("successful") is None


def test_states_of_one_age_are_deleted_together() -> None:
    retention = Retention(default=DAY, exception=30 * DAY, deleted=FOREVER)
    assert retention.limits() == [
        AgeLimit(86_400, ("queued", "picked", "successful", "canceled", "failed"), False),
        AgeLimit(30 * 86_400, ("exception",), False),
    ]
    assert Retention().limits() == []


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (Retention(default=DAY), False),
        (Retention(successful=DAY), True),
        (Retention(default=DAY, failed=2 * DAY), True),
        (Retention(default=DAY, failed=FOREVER), True),
        (Retention(default=2 * DAY, queued=DAY), False),
        (Retention(picked=DAY), False),
    ],
)
def test_an_outcome_takes_rows_that_would_outlive_it(retention: Retention, expected: bool) -> None:
    assert any(limit.takes_earlier for limit in retention.limits()) is expected


def test_what_is_longer_than_any_date_is_for_ever() -> None:
    for age in (FOREVER, float("inf"), 1e300, timedelta(days=2_000_000)):
        assert Retention(default=age).limits() == []
        assert Retention(statistics=age).statistics_seconds is None
    assert Retention(statistics=2 * DAY).statistics_seconds == 2 * 86_400


@pytest.mark.parametrize("field", ["default", "queued", "exception", "statistics"])
@pytest.mark.parametrize(
    ("age", "error"),
    [(-1, ValueError), (timedelta(-1), ValueError), (float("nan"), ValueError),
     (True, TypeError), ("1 day", TypeError)],
)  # fmt: skip
def test_wrong_ages_are_refused(field: str, age: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=field):
        Retention(**{field: age})


def test_what_settings_take() -> None:
    assert as_retention(None) is None
    assert as_retention(DAY) == as_retention(86_400) == Retention(default=DAY)
    assert Settings(retention=DAY).retention == DAY
    for wrong, error in [("30d", TypeError), (True, TypeError), (-DAY, ValueError)]:
        with pytest.raises(error, match="retention"):
            Settings(retention=wrong)  # type: ignore[arg-type]
