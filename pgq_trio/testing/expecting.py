"""Assertions about what is queued, which show what is queued instead; they run nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol, TypedDict, Unpack

from pgq_trio.client.queries import Queries
from pgq_trio.model.durations import seconds
from pgq_trio.model.enqueue import ExecuteAfter, Headers
from pgq_trio.models import Job

__all__ = ["Expected", "HasQueries", "JobLike", "assert_enqueued", "assert_not_enqueued"]

#: Jobs asked for in one query.
_PAGE = 500

#: Jobs that a message shows, those that differ least first.
_SHOWN = 10

#: Characters of a value that a message shows.
_WIDTH = 60

#: The database counts offsets in microseconds and adds them to the time of the transaction.
_TOLERANCE = timedelta(milliseconds=1)


class JobLike(TypedDict, total=False):
    """What a job is like, in the words of `enqueue`; what is left out may be anything."""

    payload: bytes | None
    priority: int
    execute_after: ExecuteAfter
    dedupe_key: str | None
    headers: Headers | None


class Expected(JobLike, total=False):
    """The same, and how many such jobs there are."""

    count: int | None


class HasQueries(Protocol):
    """An application or a manager: something with queries."""

    @property
    def queries(self) -> Queries:
        """Asking for work, and about it."""
        ...


async def assert_enqueued(
    where: HasQueries | Queries,
    entrypoint: str,
    *,
    count: int | None = None,
    **like: Unpack[JobLike],
) -> list[Job]:
    """Return the queued jobs that match, or fail with what is queued instead.

    Jobs that run, or have ended, are not queued. What is not given may be anything; None means
    that there is none.

    Args:
        where: an application, a manager or a `Queries`.
        entrypoint: whose jobs.
        count: how many match; None: at least one.
        payload: bytes, or None.
        priority: an int.
        execute_after: as `enqueue` got it: the offset (a `timedelta` or seconds, to 1 ms), or the
            aware point in time.
        dedupe_key: a key, or None.
        headers: a mapping, or None.

    Raises:
        AssertionError: another number of jobs matches.
        ValueError: a count below 1; `assert_not_enqueued` is for none.
        TypeError: an argument that there is not.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is at least 1, got {count}; use assert_not_enqueued for none")
    wanted = _Wanted(entrypoint, like)
    queued = await _queued(where)
    found = [job for job in queued if wanted.matches(job)]
    if len(found) != count and not (count is None and found):
        number = "at least one" if count is None else f"{count}"
        raise AssertionError(wanted.message(f"{number} wanted, {len(found) or 'none'}", queued))
    return found


async def assert_not_enqueued(
    where: HasQueries | Queries, entrypoint: str, **like: Unpack[JobLike]
) -> None:
    """Fail if a queued job matches; the arguments are those of `assert_enqueued`.

    Raises:
        AssertionError: a job matches.
        TypeError: an argument that there is not.
    """
    wanted = _Wanted(entrypoint, like)
    queued = await _queued(where)
    if found := sum(wanted.matches(job) for job in queued):
        raise AssertionError(wanted.message(f"none wanted, {found}", queued))


class _Wanted:
    """What a job should be like."""

    def __init__(self, entrypoint: str, like: JobLike) -> None:
        if unknown := like.keys() - JobLike.__annotations__.keys():
            raise TypeError(
                f"a job has no {min(unknown)!r} to compare; it has entrypoint, "
                f"{', '.join(JobLike.__annotations__)}"
            )
        self._values: dict[str, object] = {"entrypoint": entrypoint, **like}
        due = like.get("execute_after")
        if due is not None and not isinstance(due, datetime):
            self._values["execute_after"] = timedelta(seconds=seconds(due, "execute_after"))

    def matches(self, job: Job) -> bool:
        return not self._differences(job)

    def message(self, numbers: str, queued: list[Job]) -> str:
        asked = ", ".join(f"{name}={_short(value)}" for name, value in self._values.items())
        lines = [f"{numbers} queued: {asked}"]
        if not queued:
            lines.append("  nothing is queued")
        # Stable: jobs that differ alike stay in the order of claims.
        nearest = sorted(queued, key=self._distance)
        for job in nearest[:_SHOWN]:
            differences = self._differences(job)
            sign = "-" if differences else "="
            lines.append(f"{sign} job {job.id} of {_short(job.entrypoint)}: {self._seen(job)}")
            if "entrypoint" not in differences:
                lines.extend(f"    {name}: {how}" for name, how in differences.items())
        if len(queued) > _SHOWN:
            lines.append(f"  and {len(queued) - _SHOWN} more")
        return "\n".join(lines)

    def _distance(self, job: Job) -> int:
        differences = self._differences(job)
        return len(differences) + len(self._values) * ("entrypoint" in differences)

    def _differences(self, job: Job) -> dict[str, str]:
        return {
            name: f"{_short(have)}, not {_short(value)}"
            for name, value in self._values.items()
            if not _is_same(have := _value(job, name, value), value)
        }

    def _seen(self, job: Job) -> str:
        seen: dict[str, object] = {"payload": job.payload, "priority": job.priority}
        optional = {"dedupe_key": job.dedupe_key, "headers": job.headers}
        seen.update({name: value for name, value in optional.items() if value is not None})
        if job.execute_after > job.created:
            seen["execute_after"] = job.execute_after - job.created
        return ", ".join(f"{name}={_short(value)}" for name, value in seen.items())


def _value(job: Job, name: str, wanted: object) -> object:
    if name == "execute_after" and isinstance(wanted, timedelta):
        return job.execute_after - job.created
    return getattr(job, name)


def _is_same(have: object, wanted: object) -> bool:
    if isinstance(have, timedelta) and isinstance(wanted, timedelta):
        return abs(have - wanted) <= _TOLERANCE
    return have == wanted


def _short(value: object) -> str:
    text = str(value) if isinstance(value, timedelta | datetime) else repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


async def _queued(where: HasQueries | Queries) -> list[Job]:
    queries = where if isinstance(where, Queries) else where.queries
    jobs: list[Job] = []
    while True:
        page = await queries.browse_queue(_PAGE, len(jobs), statuses=["queued"])
        jobs.extend(page)
        if len(page) < _PAGE:
            return jobs
