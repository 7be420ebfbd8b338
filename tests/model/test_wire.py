"""Notifications: anybody may send anything on the channel."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from pgq_trio.model.wire import (
    CancellationRequested,
    Channel,
    Ignored,
    JobsEnded,
    OutcomesWanted,
    TableChanged,
    WorkerListens,
    cancellation_events,
    channel_name,
    ended_events,
    outcomes_wanted_event,
    parse_event,
    worker_listens_event,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    assert isinstance(parse_event(text), Ignored | TableChanged | CancellationRequested)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(
        [
            "table_changed_event",
            "cancellation_event",
            "jobs_ended_event",
            "outcomes_wanted_event",
            "worker_listens_event",
            "health_check_event",
            "other",
        ]
    ),
)
def test_no_json_breaks_the_reader(value: object, kind: str) -> None:
    for message in (value, {"type": kind, "ids": value, "operation": value}):
        parse_event(json.dumps(message))


@pytest.mark.parametrize(
    ("operation", "wakes"),
    [("insert", True), ("update", True), ("delete", False), ("truncate", False)],
)
def test_only_what_may_bring_work_wakes(operation: str, wakes: bool) -> None:
    event = parse_event(json.dumps({"type": "table_changed_event", "operation": operation}))
    assert event == TableChanged(operation)
    assert isinstance(event, TableChanged)
    assert event.may_bring_work is wakes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"type": "table_changed_event"}', "without an operation"),
        ('{"type": "cancellation_event"}', "without a list"),
        ('{"type": "cancellation_event", "ids": [true]}', "no integers"),
        ('{"type": "cancellation_event", "ids": ["1"]}', "no integers"),
        ('{"type": "jobs_ended_event"}', "jobs_ended_event without a list"),
        ('{"type": "jobs_ended_event", "ids": [1.5]}', "no integers"),
        ('{"type": "own"}', "unknown type 'own'"),
    ],
)
def test_what_is_malformed_is_ignored_and_says_why(text: str, problem: str) -> None:
    event = parse_event(text)
    assert isinstance(event, Ignored)
    assert event.problem is not None
    assert problem in event.problem


def test_a_health_check_is_no_problem() -> None:
    assert parse_event('{"type": "health_check_event", "id": "x"}') == Ignored(None)


@given(st.lists(st.integers(1, 2**63 - 1), max_size=3000))
def test_any_number_of_ids_is_cancelled_in_events_within_the_limit(ids: list[int]) -> None:
    read: list[int] = []
    for text in cancellation_events(ids, channel="c" * 63, sent_at=NOW):
        assert len(text.encode()) < 8000
        event = parse_event(text)
        assert isinstance(event, CancellationRequested)
        read.extend(event.ids)
    assert read == ids


@given(st.lists(st.integers(1, 2**63 - 1), max_size=3000))
def test_any_number_of_ended_jobs_is_told_in_events_within_the_limit(ids: list[int]) -> None:
    read: list[int] = []
    for text in ended_events(ids):
        assert len(text.encode()) < 8000
        event = parse_event(text)
        assert isinstance(event, JobsEnded)
        read.extend(event.ids)
    assert read == ids


def test_who_waits_and_who_listens() -> None:
    assert parse_event(outcomes_wanted_event()) == OutcomesWanted()
    assert parse_event(worker_listens_event()) == WorkerListens()


CHANNELS: tuple[Channel, ...] = ("work", "interest", "outcomes")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_channels_have_names_that_postgresql_takes(work: str) -> None:
    work = work.encode()[:63].decode(errors="ignore") or "x"
    names = [channel_name(work, channel) for channel in CHANNELS]
    assert names[0] == work
    assert len(set(names)) == 3
    assert all(0 < len(name.encode()) <= 63 for name in names)


def test_long_channels_that_begin_alike_stay_apart() -> None:
    assert channel_name("ch_pgqueuer", "interest") == "ch_pgqueuer_interest"
    names = {channel_name("c" * 62 + last, channel) for last in "ab" for channel in CHANNELS}
    assert len(names) == 6
