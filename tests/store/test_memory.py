"""The memory store keeps the contract, on a clock that stands still: the hardest kind."""

from __future__ import annotations

import pytest

from pgq_trio.db import InMemoryDriver
from pgq_trio.settings import Settings
from tests.store.suite import *  # noqa: F403 - the tests themselves
from tests.store.world import ManualClock, World


def _world(settings: Settings) -> World:
    clock = ManualClock()
    return World(InMemoryDriver(clock).backend(settings), clock.advance)


@pytest.fixture
def world() -> World:
    return _world(Settings())


@pytest.fixture
def outcomes_world() -> World:
    return _world(Settings(history="outcomes"))
