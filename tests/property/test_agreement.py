"""The stores in memory and on PostgreSQL agree, step by step, whatever is asked of them.

They are compared to the microsecond, on one clock that moves a second for each command: the reply,
every row, every log row and every notification. Figures are whole seconds, so that leases, delays
and retention end exactly at a look, or just not, all the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, strategies as st

from pgq_trio.model.retention import Retention
from pgq_trio.testing import BACKENDS
from pgq_trio.types import History
from tests.conftest import NEWEST_SERVER
from tests.property.agreement_history import HistoryPlayer, programs_of_history
from tests.property.agreement_jobs import JobPlayer, programs_of_jobs
from tests.property.agreement_schedules import SchedulePlayer, programs_of_schedules
from tests.property.agreement_worlds import Arena, Command, clock_database, open_arena
from tests.property.profiles import examples
from tests.servers import PostgresServer
from tests.store.world import ALICE, BOB, new

pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)

#: Statistics are read from the newest on, also when seconds are counted in one statement.
COUNTED_AT_ONCE: list[Command] = [
    ("enqueue", [new("b")], "raise"),
    ("enqueue", [new("a")], "raise"),
    ("fold", 1000),
    ("ask_statistics", 1, None),
]

#: A row that goes before anybody has counted it is counted on its way.
GONE_UNCOUNTED: list[Command] = [
    ("enqueue", [new("a")], "raise"),
    ("wait", 3),
    ("expire", Retention(default=1), 1000, True),
]

#: Bob speaks for a job of Alice's.
NOT_HIS: list[Command] = [
    ("enqueue", [new("a")], "raise"),
    ("claim", ALICE, {"a": 0}, 5, 3),
    ("heartbeat", BOB, [0]),
    ("release", BOB, [0]),
]

histories = st.sampled_from(["full", "outcomes"])


@pytest.fixture(scope="module", params=BACKENDS)
def arena(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, install_sql: list[str]
) -> Iterator[Arena]:
    """A session of all examples of this module."""
    with clock_database(postgres_server, install_sql) as dsn, open_arena(dsn, request.param) as it:
        yield it


@examples(70)
@given(commands=programs_of_jobs, history=histories)
@example(commands=NOT_HIS, history="full")
def test_jobs(arena: Arena, commands: list[Command], history: History) -> None:
    arena.compare(JobPlayer, commands, history=history)


@examples(60)
@given(commands=programs_of_schedules)
def test_schedules(arena: Arena, commands: list[Command]) -> None:
    arena.compare(SchedulePlayer, commands)


@examples(60)
@given(commands=programs_of_history, history=histories)
@example(commands=COUNTED_AT_ONCE, history="full")
@example(commands=GONE_UNCOUNTED, history="full")
def test_histories(arena: Arena, commands: list[Command], history: History) -> None:
    arena.compare(HistoryPlayer, commands, history=history)
