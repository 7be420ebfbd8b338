"""A bound on each test of the housekeeping."""

from __future__ import annotations

import pytest

from tests.worker.places import bound


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound each async test."""
    bound(pyfuncitem)
