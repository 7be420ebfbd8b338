"""Traceback records, errors, names and settings: small and pure."""

from __future__ import annotations

import dataclasses
import importlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

import pgq_trio
from pgq_trio import errors
from pgq_trio.model.names import fold, quote_identifier, quote_literal
from pgq_trio.model.outcomes import retry_of
from pgq_trio.model.traceback import MAX_TEXT, TracebackRecord, storable
from pgq_trio.settings import Settings, default_dsn, environment

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Rude(Exception):
    """An exception whose texts cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@given(st.text(st.characters(codec=None, categories=None) | st.just("\x00") | st.just("\ud800")))
def test_every_text_becomes_storable(text: str) -> None:
    result = storable(text)
    result.encode()
    assert "\x00" not in result
    assert len(result) <= MAX_TEXT + 100


def test_a_record_survives_what_exceptions_do() -> None:
    try:
        raise Rude("\x00")
    except Rude as exc:
        context = {"a\x00": ["\ud800", 1, None, {"b": object}]}
        record = TracebackRecord.from_exception(
            exc, job_id=7, timestamp=NOW, additional_context=context
        )
    assert record.exception_type == "Rude"
    assert "RuntimeError" in record.exception_message
    assert "\\u0000" not in record.to_json()
    assert TracebackRecord.from_json(json.loads(record.to_json())) == record


FIELDS = [field.name for field in dataclasses.fields(TracebackRecord)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), some),
    max_leaves=20,
)


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_whatever_json_was_logged_can_be_read(value: object) -> None:
    record = TracebackRecord.from_json(value, job_id=7, timestamp=NOW)
    assert isinstance(record.job_id, int)
    assert record.timestamp.tzinfo is not None
    for text in (record.exception_type, record.exception_message, record.traceback):
        assert isinstance(text, str)
    assert record.additional_context is None or isinstance(record.additional_context, dict)


def test_a_very_long_traceback_loses_its_middle() -> None:
    record = TracebackRecord.from_exception(ValueError("x" * 500_000), job_id=1, timestamp=NOW)
    assert len(record.traceback) < MAX_TEXT + 100
    assert "characters left out" in record.traceback
    assert record.additional_context is None


def test_a_group_of_retries_takes_the_longest_and_a_mixed_one_is_none() -> None:
    short, long = errors.RetryRequested(1), errors.RetryRequested(timedelta(minutes=1))
    assert retry_of(ExceptionGroup("g", [short, ExceptionGroup("h", [long])])) is long
    assert retry_of(ExceptionGroup("g", [short, ValueError()])) is None
    assert retry_of(ValueError()) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.DuplicateJobError(["a", None]), "'a' is already queued"),
        (errors.JobTimeout("mail", 2.5), "2.5 s of entrypoint 'mail'"),
        (errors.LeaseLost(3), "lease on job 3"),
        (errors.UnknownJob(3), "job 3 is unknown"),
        (errors.ConnectionLost("reset"), "lost: reset"),
        (errors.ListenerLost("reset"), "LISTEN connection"),
        (errors.SchemaMissing(["table t"]), "pgq-trio install"),
        (errors.SchemaMissing(), "the tables of the queue"),
        (errors.SchemaDrift(["t.c is text"]), "pgq-trio verify"),
        (errors.RetryRequested(1.5, "later"), "later"),
    ],
)
def test_errors_say_what_happened_and_are_one_tree(error: Exception, words: str) -> None:
    assert words in str(error)
    assert isinstance(error, errors.PgqError)


def test_of_many_dedupe_keys_a_few_are_named() -> None:
    keys = [f"k{number}" for number in range(20_000)]
    error = errors.DuplicateJobError(keys)
    assert error.dedupe_key == keys
    assert str(error).startswith(
        "one of the dedupe keys 'k0', 'k1', 'k2', 'k3', 'k4' and 19995 more is taken, or given "
        "twice; nothing was enqueued. "
    )
    twice = str(errors.DuplicateJobError(["a", None, "a"]))
    assert twice.startswith("the dedupe key 'a' is taken, or given twice; ")
    assert len(str(errors.DuplicateJobError(["x" * 2500] * 2))) < 300


@pytest.mark.parametrize("delay", ["x", None, True])
def test_a_retry_after_no_duration_is_refused(delay: Any) -> None:
    with pytest.raises(TypeError, match="delay is a timedelta or seconds, got"):
        errors.RetryRequested(delay)


def test_a_retry_in_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        errors.RetryRequested(-1)


def test_unknown_job_is_a_key_error_too() -> None:
    assert isinstance(errors.UnknownJob(1), KeyError)


def test_plain_names_fold_as_postgresql_folds_them_and_others_do_not() -> None:
    assert fold("MyApp_") == "myapp_"
    assert fold("My App") == "My App"
    assert quote_identifier('a"b', "c") == '"a""b"."c"'
    assert quote_literal("it's") == "'it''s'"
    assert quote_literal("a\\b") == " E'a\\\\b'"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prefix": "x" * 40}, "longer than 63 bytes"),
        ({"queue_table": "a.b"}, "schema="),
        ({"queue_table": "a\x00"}, "NUL"),
        ({"durability": "eternal"}, "durable"),
        ({"history": "none"}, "outcomes"),
    ],
)
def test_settings_refuse_what_cannot_work(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**changes)  # type: ignore[arg-type]


def test_settings_read_what_is_not_given_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGQUEUER_PREFIX", "App_")
    monkeypatch.setenv("PGQUEUER_SCHEMA", "jobs")
    monkeypatch.setenv("PGQUEUER_QUEUE_TABLE", "own")
    monkeypatch.setenv("PGQUEUER_DURABILITY", "balanced")
    settings = Settings()
    assert settings.queue_table == "own"
    assert settings.queue_table_log == "app_pgqueuer_log"
    assert settings.channel == "App_ch_pgqueuer"
    assert settings.qualified("own") == '"jobs"."own"'
    assert settings.is_unlogged("queue_table_log")
    assert not settings.is_unlogged("queue_table")
    assert Settings(prefix="b_", queue_table="q").queue_table == "q"
    assert settings.with_changes(prefix="b_").queue_table_log == "b_pgqueuer_log"


def test_the_database_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUER_DSN", raising=False)
    monkeypatch.delenv("PGDSN", raising=False)
    assert default_dsn() == ""
    monkeypatch.setenv("PGDSN", "host=b")
    assert default_dsn() == "host=b"
    monkeypatch.setenv("PGQUEUER_DSN", "host=a")
    assert default_dsn() == "host=a"
    assert environment(dsn="x", prefix=None) == {"PGQUEUER_DSN": "x"}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("models", ["Job", "Context", "Schedule", "ScheduleContext", "Log"]),
        ("executors", ["AbstractEntrypointExecutor", "EntrypointExecutorParameters"]),
        ("db", ["PsycopgDriver", "InMemoryDriver"]),
        ("errors", ["RetryRequested", "DuplicateJobError"]),
        ("types", ["QueueExecutionMode", "JobId"]),
        ("queries", ["Queries"]),
        ("qm", ["QueueManager"]),
        ("sm", ["SchedulerManager"]),
    ],
)
def test_import_paths_of_pgqueuer_work_with_one_word_changed(path: str, names: list[str]) -> None:
    module = importlib.import_module(f"pgq_trio.{path}")
    assert all(hasattr(module, name) for name in names)


def test_the_front_door_has_what_it_says() -> None:
    assert all(hasattr(pgq_trio, name) for name in pgq_trio.__all__)
