"""What `enqueue` accepts, and in which words it refuses the rest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

from pgq_trio.model import enqueue
from pgq_trio.model.enqueue import MAX_DELAY, NewJob, new_jobs


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


WEST, EAST = timezone(timedelta(hours=-12)), timezone(timedelta(hours=14))


def nested(levels: int) -> dict[str, object]:
    headers: dict[str, object] = {}
    for _ in range(levels - 1):
        headers = {"a": headers}
    return headers


def endless() -> dict[str, object]:
    headers: dict[str, object] = {}
    headers["a"] = headers
    return headers


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


def test_a_point_in_time_in_another_zone_is_the_same_in_utc() -> None:
    at = datetime(2030, 1, 1, 14, tzinfo=EAST)
    (job,) = made(execute_after=at)
    assert job.execute_at == at
    assert job.execute_at is not None
    assert job.execute_at.tzinfo is UTC


def test_headers_may_be_any_mapping_and_hold_others() -> None:
    (job,) = made(headers=MappingProxyType({"a": MappingProxyType({"b": (1, None)})}))
    assert job.headers is not None
    assert json.loads(job.headers) == {"a": {"b": [1, None]}}
    made(headers=nested(100))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"entrypoint": ""}, TypeError, "non-empty"),
        ({"entrypoint": [3]}, TypeError, "non-empty"),
        ({"entrypoint": "a\x00"}, ValueError, "NUL"),
        ({"entrypoint": "a\ud800"}, ValueError, "surrogate"),
        ({"payload": "text"}, TypeError, "payload is bytes or None, got str; encode it"),
        ({"entrypoint": [], "payload": "text"}, TypeError, "bytes or None, got str; encode it"),
        ({"headers": "x"}, TypeError, "headers is a mapping such as a dict, or None, got str"),
        ({"dedupe_key": b"k"}, TypeError, "dedupe_key is a string, got bytes"),
        ({"entrypoint": ["a"], "payload": ["text"]}, TypeError, r"json\.dumps"),
        ({"payload": 3}, TypeError, "payload"),
        ({"priority": "high"}, TypeError, "priority is an int, got 'high'"),
        ({"priority": True}, TypeError, "priority is an int"),
        ({"priority": 2**31}, ValueError, "32 bits"),
        ({"execute_after": datetime(2030, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001
        ({"execute_after": "soon"}, TypeError, "timedelta, seconds or an aware datetime"),
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
        ({"entrypoint": None}, TypeError, "entrypoint is a string, or a list"),
        ({"entrypoint": b"ab"}, TypeError, "entrypoint is a string, or a list"),
        ({"entrypoint": {"a"}}, TypeError, "entrypoint is a string, or a list"),
        ({"entrypoint": {"a": 1}}, TypeError, "entrypoint is a string, or a list"),
        ({"entrypoint": "é" * 1251}, ValueError, "2502 bytes"),
        ({"dedupe_key": "x" * 2501}, ValueError, "Use a hash"),
        ({"payload": [b"x", b"y"]}, ValueError, "2 entries for 1"),
        ({"execute_after": -1}, ValueError, "must not be negative"),
        ({"execute_after": timedelta(microseconds=-1)}, ValueError, "must not be negative"),
        ({"execute_after": MAX_DELAY + timedelta(seconds=1)}, ValueError, "at most 36525 days"),
        ({"execute_after": 1e10}, ValueError, "at most 36525 days"),
        ({"execute_after": float("inf")}, ValueError, "no number of seconds"),
        ({"execute_after": datetime.max.replace(tzinfo=UTC)}, ValueError, "years 2 to 9998"),
        ({"execute_after": datetime.max.replace(tzinfo=WEST)}, ValueError, "years 2 to 9998"),
        ({"execute_after": datetime.min.replace(tzinfo=EAST)}, ValueError, "years 2 to 9998"),
        ({"headers": {1: "x"}}, TypeError, "text keys"),
        ({"headers": {"a": [{True: "x"}]}}, TypeError, "text keys"),
        ({"headers": {"a": float("inf")}}, ValueError, "JSON"),
        ({"headers": {"a": {1, 2}}}, TypeError, "set has no JSON form"),
        ({"headers": {"a": b"x"}}, TypeError, "bytes has no JSON form"),
        ({"headers": nested(101)}, ValueError, "deeper than 100 levels"),
        ({"headers": nested(100_000)}, ValueError, "deeper than 100 levels"),
        ({"headers": endless()}, ValueError, "into themselves"),
        ({"headers": {"a": 10**5000}}, ValueError, "JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        made(**changes)


class Huge(bytearray):
    """Says it is larger than any job's payload, and must not be copied."""

    def __len__(self) -> int:
        return 2**30

    def __bytes__(self) -> bytes:
        raise AssertionError("copied before it was looked at")


def test_a_payload_too_large_for_a_row_is_refused_before_it_is_copied() -> None:
    with pytest.raises(ValueError, match=r"1073741824 bytes.*enqueue its address"):
        made(payload=Huge())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_largest_payload(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(enqueue, "MAX_PAYLOAD_BYTES", 10)
    made(payload=kind(b"x" * 10))
    with pytest.raises(ValueError, match="enqueue its address"):
        made(payload=kind(b"x" * 11))


def test_the_largest_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "MAX_HEADERS_BYTES", 13)
    made(headers={"a": "1234"})
    with pytest.raises(ValueError, match="belongs into the payload"):
        made(headers={"a": "12345"})
