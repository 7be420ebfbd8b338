"""Errors travel between processes: each comes back as what it was."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

from pgq_trio import errors
from pgq_trio.errors import PgqError, RetryRequested


class OwnRetry(RetryRequested):
    """A user's own, with a constructor of its own."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second, "own")


ERRORS: list[PgqError] = [
    errors.BackendNotSupported("a text"),
    errors.ConnectionLost("a detail"),
    errors.DuplicateJobError(["a", None]),
    errors.JobTimeout("it", 1.5),
    errors.LeaseLost(7),
    errors.ListenerLost("a detail"),
    PgqError("a text"),
    errors.RegistrationError("a text"),
    errors.ResourceError("a text"),
    RetryRequested(),
    RetryRequested(timedelta(hours=1), reason="later"),
    OwnRetry(1, 2),
    errors.SchemaDrift(["a", "b"]),
    errors.SchemaMissing(["a"]),
    errors.StoreError("a text", retryable=True),
    errors.UnknownJob(7),
    errors.WorkerLost(3, 2),
    errors.WorkerProcessDied("a text"),
]


def test_every_error_is_here() -> None:
    assert {type(error).__name__ for error in ERRORS} - {"OwnRetry"} == set(errors.__all__)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_an_error_comes_back_as_it_was(error: PgqError, protocol: int) -> None:
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - made here
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert again.__dict__ == error.__dict__
    two = pickle.dumps(ExceptionGroup("two", [error, ValueError()]), protocol)
    group = pickle.loads(two)  # noqa: S301 - made here
    assert str(group.exceptions[0]) == str(error)
