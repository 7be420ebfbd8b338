"""What a schedule fires: never early, each fire time once, at a bounded cost."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings, strategies as st

from pgq_trio.model.cron import CronExpression
from pgq_trio.model.firing import (
    MAX_MISSED,
    Fire,
    Skip,
    due_at,
    passed_meanwhile,
    plan,
    plan_again,
)
from pgq_trio.types import Misfire
from tests.model.test_cron import EXPRESSIONS, MOMENTS, ZONES

EVERY_MINUTE = CronExpression.parse("* * * * *")
EVERY_SECOND = CronExpression.parse("* * * * * *")
NEW_YEAR = CronExpression.parse("0 0 1 1 *")
SECOND = timedelta(seconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2025-01-01T{text}").replace(tzinfo=UTC)


def test_nothing_is_due_before_its_time() -> None:
    assert (
        plan(at("00:05:00"), now=at("00:04:59.999999"), cron=EVERY_MINUTE, misfire="last") is None
    )


@pytest.mark.parametrize("misfire", ["last", "skip", "all"])
def test_a_fire_that_is_on_time_is_the_same_under_every_policy(misfire: Misfire) -> None:
    decision = plan(at("00:05:00"), now=at("00:05:00.02"), cron=EVERY_MINUTE, misfire=misfire)
    assert decision == Fire(at("00:05:00"), 0, at("00:06:00"))


def test_last_answers_all_missed_fire_times_with_one_run() -> None:
    decision = plan(at("00:05:00"), now=at("00:09:30"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(at("00:09:00"), 4, at("00:10:00"))


def test_all_runs_each_missed_fire_time_in_order() -> None:
    next_run, fired = at("00:05:00"), list[datetime]()
    while True:
        decision = plan(next_run, now=at("00:07:30"), cron=EVERY_MINUTE, misfire="all")
        if decision is None:
            break
        assert isinstance(decision, Fire)
        assert decision.missed == 0
        fired.append(decision.fire_time)
        next_run = decision.next_run
    assert fired == [at("00:05:00"), at("00:06:00"), at("00:07:00")]
    assert next_run == at("00:08:00")


def test_skip_leaves_out_what_is_late() -> None:
    decision = plan(at("00:05:00"), now=at("00:09:30"), cron=EVERY_MINUTE, misfire="skip")
    assert decision == Skip(at("00:10:00"))


def test_skip_runs_the_one_that_is_not_late_and_only_that() -> None:
    decision = plan(at("00:05:00"), now=at("00:09:00.5"), cron=EVERY_MINUTE, misfire="skip")
    assert decision == Fire(at("00:09:00"), 0, at("00:10:00"))


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [
        ("last", Skip(at("00:10:00"))),
        ("skip", Skip(at("00:10:00"))),
        ("all", Skip(at("00:10:00"))),
    ],
)
def test_what_is_later_than_the_grace_is_left_out(misfire: Misfire, expected: Skip) -> None:
    decision = plan(at("00:05:00"), now=at("00:09:30"), cron=EVERY_MINUTE, misfire=misfire, grace=9)
    assert decision == expected


def test_all_begins_with_the_first_within_the_grace() -> None:
    decision = plan(at("00:05:00"), now=at("00:09:30"), cron=EVERY_MINUTE, misfire="all", grace=90)
    assert decision == Fire(at("00:08:00"), 0, at("00:09:00"))


def test_a_row_set_by_hand_fires_at_once() -> None:
    """An UPDATE of next_run is how one runs a schedule now; PgQueuer fires it as well."""
    decision = plan(at("00:05:00.25"), now=at("00:05:03"), cron=NEW_YEAR, misfire="last")
    assert decision == Fire(at("00:05:00.25"), 0, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_row_that_pgqueuer_cut_to_seconds_waits_for_the_fire_time_it_means() -> None:
    """PgQueuer's next_run may be a second early: fired then, the fire time would fire again."""
    assert due_at(at("00:04:59"), EVERY_MINUTE) == at("00:05:00")
    assert plan(at("00:04:59"), now=at("00:04:59.5"), cron=EVERY_MINUTE, misfire="last") is None
    decision = plan(at("00:04:59"), now=at("00:05:00"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(at("00:05:00"), 0, at("00:06:00"))


def test_a_fire_whose_worker_died_is_planned_again() -> None:
    decision = plan_again(at("00:06:00"), now=at("00:05:31"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(at("00:05:00"), 0, at("00:06:00"))
    decision = plan_again(at("00:06:00"), now=at("00:07:10"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(at("00:07:00"), 2, at("00:08:00"))
    decision = plan_again(at("00:06:00"), now=at("00:05:31"), cron=EVERY_MINUTE, misfire="skip")
    assert decision == Skip(at("00:06:00"))
    decision = plan_again(at("00:06:00"), now=at("00:07:10"), cron=EVERY_MINUTE, misfire="all")
    assert decision == Fire(at("00:05:00"), 0, at("00:06:00"))


@pytest.mark.parametrize("misfire", ["last", "skip", "all"])
def test_a_year_of_seconds_is_planned_in_bounded_time(misfire: Misfire) -> None:
    began = time.perf_counter()
    now = at("00:00:00.5") + timedelta(days=365)
    decision = plan(at("00:00:00"), now=now, cron=EVERY_SECOND, misfire=misfire)
    assert time.perf_counter() - began < 1.0  # 31 million steps take ten minutes
    assert isinstance(decision, Fire)
    if misfire == "all":
        assert decision.fire_time == at("00:00:00")
    else:
        assert decision.fire_time == now.replace(microsecond=0)
        assert decision.missed == (MAX_MISSED if misfire == "last" else 0)


CRONS = st.builds(CronExpression.parse, st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES))
#: Time passes between two looks: a moment, a downtime, or from one fire time to the next.
GAPS = st.one_of(
    st.timedeltas(timedelta(milliseconds=1), timedelta(seconds=90)),
    st.timedeltas(timedelta(minutes=1), timedelta(days=3)),
    st.none(),
)


@settings(deadline=None)
@given(
    cron=CRONS,
    start=MOMENTS,
    gaps=st.lists(GAPS, max_size=12),
    misfire=st.sampled_from(["last", "skip", "all"]),
    grace=st.none() | st.floats(0, 3600),
)
def test_never_early_and_once_per_fire_time(
    cron: CronExpression,
    start: datetime,
    gaps: list[timedelta | None],
    misfire: Misfire,
    grace: float | None,
) -> None:
    now, next_run = start, cron.next_after(start)
    answered: list[datetime] = []
    for gap in gaps:
        now = next_run if gap is None and next_run > now else now + (gap or SECOND)
        decision = plan(next_run, now=now, cron=cron, misfire=misfire, grace=grace)
        if decision is None:
            assert now < next_run
            continue
        assert decision.next_run > next_run or isinstance(decision, Skip)
        assert cron.first_from(decision.next_run) == decision.next_run
        if isinstance(decision, Fire):
            assert decision.fire_time <= now
            assert cron.first_from(decision.fire_time) == decision.fire_time
            assert decision.next_run == cron.next_after(decision.fire_time)
            assert not answered or answered[-1] < decision.fire_time
            answered.append(decision.fire_time)
            if grace is not None:
                assert (now - decision.fire_time).total_seconds() <= grace
        else:
            assert decision.next_run > now
        next_run = decision.next_run


@settings(deadline=None)
@given(cron=CRONS, start=MOMENTS, steps=st.integers(0, 50), into=st.floats(0, 0.99))
def test_last_leaves_no_fire_time_unanswered(
    cron: CronExpression, start: datetime, steps: int, into: float
) -> None:
    chain = [cron.next_after(start)]
    for _ in range(steps + 1):
        chain.append(cron.next_after(chain[-1]))
    now = chain[-2] + (chain[-1] - chain[-2]) * into
    assert plan(chain[0], now=now, cron=cron, misfire="last") == Fire(chain[-2], steps, chain[-1])


@pytest.mark.parametrize("misfire", ["last", "skip", "all"])
@pytest.mark.parametrize("grace", [None, 0.0])
def test_what_was_triggered_runs_once_however_late(misfire: Misfire, grace: float | None) -> None:
    triggered = at("00:04:10.25")
    assert due_at(triggered, EVERY_MINUTE) == triggered
    early = plan(triggered, now=at("00:04:10"), cron=EVERY_MINUTE, misfire=misfire, grace=grace)
    assert early is None
    decision = plan(triggered, now=at("00:04:40"), cron=EVERY_MINUTE, misfire=misfire, grace=grace)
    assert decision == Fire(triggered, 0, at("00:05:00"))


def test_a_trigger_just_before_a_fire_time_does_not_wait_for_it() -> None:
    triggered = at("00:04:59.000001")
    decision = plan(triggered, now=at("00:04:59.1"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(triggered, 0, at("00:05:00"))


def test_the_fire_time_after_a_trigger_is_the_zones() -> None:
    cron = CronExpression.parse("30 2 * * *", "America/New_York")
    for day, following in (
        (7, datetime(2025, 3, 8, 7, 30, tzinfo=UTC)),
        (8, datetime(2025, 3, 9, 7, 0, tzinfo=UTC)),  # half past two is left out: at three
        (9, datetime(2025, 3, 10, 6, 30, tzinfo=UTC)),
    ):
        triggered = datetime(2025, 3, day, 12, 0, 0, 5, tzinfo=UTC)
        decision = plan(triggered, now=triggered + SECOND, cron=cron, misfire="last")
        assert decision == Fire(triggered, 0, following)


def test_a_trigger_that_met_missed_fire_times_answers_for_them_under_last() -> None:
    marked = at("00:05:00.000001")
    decision = plan(marked, now=at("00:09:30"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(at("00:09:00"), 4, at("00:10:00"))
    decision = plan(marked, now=at("00:09:30"), cron=EVERY_MINUTE, misfire="all")
    assert decision == Fire(marked, 0, at("00:06:00"))
    decision = plan(marked, now=at("00:09:30"), cron=EVERY_MINUTE, misfire="skip")
    assert decision == Fire(marked, 0, at("00:10:00"))


def test_a_trigger_survives_the_death_of_the_run_it_came_in() -> None:
    decision = plan_again(at("00:05:20.5"), now=at("00:05:55"), cron=EVERY_MINUTE, misfire="skip")
    assert decision == Fire(at("00:05:20.5"), 0, at("00:06:00"))
    decision = plan_again(at("00:05:20.5"), now=at("00:05:55"), cron=EVERY_MINUTE, misfire="last")
    assert decision == Fire(at("00:05:00"), 0, at("00:06:00"))


def test_fire_times_that_passed_meanwhile() -> None:
    assert passed_meanwhile(at("00:05:00"), now=at("00:05:00"), cron=EVERY_MINUTE) == (
        1,
        at("00:06:00"),
    )
    assert passed_meanwhile(at("00:05:00"), now=at("00:07:59.9"), cron=EVERY_MINUTE) == (
        3,
        at("00:08:00"),
    )
    counted, following = passed_meanwhile(at("00:00:00"), now=at("02:00:00.5"), cron=EVERY_SECOND)
    assert (counted, following) == (MAX_MISSED + 1, at("02:00:01"))
