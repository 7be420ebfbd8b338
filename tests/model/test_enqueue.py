"""What `enqueue` accepts, and in which words it refuses the rest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgq_trio.model import enqueue
from pgq_trio.model.enqueue import NewJob, new_jobs


def made(**changes: Any) -> list[NewJob]:
    arguments: dict[str, Any] = {
        "entrypoint": "it",
        "payload": None,
        "priority": 0,
        "execute_after": None,
        "dedupe_key": None,
        "headers": None,
    }
    return new_jobs(**(arguments | changes))


def test_scalars_make_one_job() -> None:
    (job,) = made(payload=b"x", priority=3, dedupe_key="k", headers={"a": [1, "é"]})
    assert (job.entrypoint, job.payload, job.priority, job.dedupe_key) == ("it", b"x", 3, "k")
    assert job.headers is not None
    assert json.loads(job.headers) == {"a": [1, "é"]}
    assert (job.delay, job.execute_at) == (None, None)


def test_scalars_are_broadcast_over_a_list_of_entrypoints() -> None:
    jobs = made(entrypoint=["a", "b"], payload=b"x", priority=[1, 2], execute_after=timedelta(1))
    assert [(x.entrypoint, x.payload, x.priority, x.delay) for x in jobs] == [
        ("a", b"x", 1, timedelta(1)),
        ("b", b"x", 2, timedelta(1)),
    ]


def test_bytes_like_payloads_become_bytes() -> None:
    for payload in (bytearray(b"x"), memoryview(b"x")):
        (job,) = made(payload=payload)
        assert job.payload == b"x"
        assert isinstance(job.payload, bytes)


def test_an_offset_may_be_seconds() -> None:
    jobs = made(entrypoint=["a", "b"], execute_after=[2, 0.5])
    assert [job.delay for job in jobs] == [timedelta(seconds=2), timedelta(seconds=0.5)]
    (job,) = made(execute_after=1.5)
    assert job.delay == timedelta(seconds=1.5)


def test_a_point_in_time_is_kept_as_it_is() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    (job,) = made(execute_after=at)
    assert (job.delay, job.execute_at) == (None, at)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"entrypoint": ""}, TypeError, "non-empty"),
        ({"entrypoint": [3]}, TypeError, "non-empty"),
        ({"entrypoint": "a\x00"}, ValueError, "NUL"),
        ({"entrypoint": "a\ud800"}, ValueError, "surrogate"),
        ({"payload": "text"}, TypeError, "payload has the wrong type"),
        ({"entrypoint": ["a"], "payload": ["text"]}, TypeError, r"json\.dumps"),
        ({"payload": 3}, TypeError, "payload"),
        ({"priority": "high"}, TypeError, "priority"),
        ({"priority": True}, TypeError, "priority is an int"),
        ({"priority": 2**31}, ValueError, "32 bits"),
        ({"execute_after": datetime(2030, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001
        ({"execute_after": "soon"}, TypeError, "execute_after"),
        ({"entrypoint": ["a"], "execute_after": ["soon"]}, TypeError, "timedelta, seconds or"),
        ({"execute_after": float("nan")}, ValueError, "no number of seconds"),
        ({"execute_after": 1e300}, ValueError, "no number of seconds"),
        ({"entrypoint": ["a"], "execute_after": [True]}, TypeError, "seconds or"),
        ({"dedupe_key": 3}, TypeError, "dedupe_key"),
        ({"entrypoint": ["a"], "dedupe_key": [3]}, TypeError, "dedupe_key is a string"),
        ({"dedupe_key": "\x00"}, ValueError, "NUL"),
        ({"entrypoint": ["a", "b"], "priority": [1]}, ValueError, "1 entries for 2"),
        ({"headers": {"a": object()}}, TypeError, "JSON"),
        ({"headers": {"a": float("nan")}}, ValueError, "JSON"),
        ({"headers": {"a": ["\x00"]}}, ValueError, "NUL"),
        ({"headers": {"\udfff": 1}}, ValueError, "surrogate"),
        ({"entrypoint": ["a"], "headers": [3]}, TypeError, "mapping"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        made(**changes)


def test_a_payload_too_large_for_a_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "MAX_PAYLOAD_BYTES", 10)
    made(payload=b"x" * 10)
    with pytest.raises(ValueError, match="enqueue its address"):
        made(payload=b"x" * 11)
