"""The places under these tests, and a bound on each of them."""

from __future__ import annotations

import pytest

from tests.worker.places import bound, database, place

__all__ = ["database", "place"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)
