"""Another release of Trio, whose run queue is not found: delays instead of decisions."""

from __future__ import annotations

import pytest
from hypothesis import find, settings
from hypothesis.errors import NoSuchExample

from pgq_trio.testing import interleavings, on_trio, simulate
from tests.kit.engine_worlds import Counter, staggered, twice


class TestWithoutControl:
    """Another release of Trio, whose run queue is not found: delays instead of decisions."""

    @pytest.fixture(autouse=True)
    def _not_controllable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(on_trio, "is_controllable", lambda: False)

    def test_the_lost_update_is_found(self) -> None:
        def loses(schedule: tuple[int, ...]) -> bool:
            counter = Counter()
            simulate(staggered, counter, schedule=schedule).check()
            return counter.value == 1

        assert find(interleavings(tasks=4), loses)

    def test_and_not_where_there_is_none(self) -> None:
        def loses(schedule: tuple[int, ...]) -> bool:
            counter = Counter()
            simulate(twice("add"), counter, schedule=schedule).check()
            return counter.value != 2

        with pytest.raises(NoSuchExample):
            find(interleavings(tasks=4), loses, settings=settings(max_examples=50, database=None))


def test_trio_is_controllable() -> None:
    assert on_trio.is_controllable()


def test_a_run_queue_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio, "_runner", lambda: None)
    on_trio.is_controllable.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="run queue of Trio .* is not where it was"):
            assert not on_trio.is_controllable()
    finally:
        on_trio.is_controllable.cache_clear()
