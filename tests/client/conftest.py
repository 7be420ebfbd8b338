"""The places under these tests, and a bound on each of them."""

from __future__ import annotations

import pytest

from pgq_trio.client import watching
from tests.worker.places import bound, database, find_server, place

__all__ = ["database", "find_server", "place"]


@pytest.fixture
def no_early_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have looks come of notifications only."""
    monkeypatch.setattr(watching, "EARLY_LOOKS", ())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)
