"""Sessions at the same rows on PostgreSQL: what comes of it could have come one by one.

There is no deadlock, no job is claimed twice, and nothing is lost, whoever commits when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import pytest
from hypothesis import example, given, strategies as st

from pgq_trio.testing import BACKENDS
from tests.conftest import NEWEST_SERVER
from tests.property.agreement_racers import Operation
from tests.property.agreement_races import Plan, Race, Track, open_track
from tests.property.agreement_worlds import clock_database
from tests.property.profiles import examples
from tests.servers import PostgresServer

pytestmark = pytest.mark.parametrize(
    "postgres_server", NEWEST_SERVER, indirect=True, scope="session"
)

JOBS = 4

numbers = st.lists(st.integers(0, JOBS - 1), min_size=2, max_size=JOBS, unique=True)
keys = st.sampled_from([None, "k", "k", "k", "l"])
plans = st.sampled_from(get_args(Plan))
kinds = st.sampled_from(["successful", "failed", "retry", "canceled"])

OPERATIONS: dict[str, st.SearchStrategy[Operation]] = {
    "claim": st.tuples(st.just("claim"), numbers, st.integers(1, JOBS)),
    "finish": st.tuples(
        st.just("finish"),
        numbers.flatmap(lambda ns: st.tuples(*(st.tuples(st.just(n), kinds) for n in ns))),
    ),
    "enqueue": st.tuples(
        st.just("enqueue"),
        st.lists(keys, min_size=1, max_size=3),
        st.sampled_from(["raise", "skip", "update_priority"]),
    ),
} | {
    name: st.tuples(st.just(name), numbers)
    for name in ("release", "heartbeat", "cancel", "requeue", "clear")
}


#: In which states jobs are of use to an operation; to enqueue, their keys are.
WANTED: dict[str, list[str]] = {
    "claim": ["queued", "stale"],
    "finish": ["picked", "stale"],
    "release": ["picked", "stale"],
    "heartbeat": ["picked", "stale"],
    "requeue": ["failed"],
}


def races_of(names: Sequence[str]) -> st.SearchStrategy[Race]:
    """Draw races in which nothing else is done: who meets whom is what counts."""
    states = sorted({state for name in names for state in WANTED.get(name, [])}) or ["queued"]
    return st.permutations(names).flatmap(
        lambda order: st.builds(
            Race,
            given=st.lists(st.tuples(st.sampled_from(states), keys), min_size=2, max_size=JOBS).map(
                tuple
            ),
            first=OPERATIONS[order[0]],
            second=OPERATIONS[order[1 % len(order)]],
            third=OPERATIONS[order[2 % len(order)]],
            end_before=st.sampled_from([2, 2, 1]),
            commits=st.sampled_from([True, True, True, False]),
            plans=st.tuples(plans, plans, plans),
        )
    )


#: Those that want the same rows or the same keys.
RIVALS = [
    ("claim",), ("claim", "enqueue"), ("claim", "heartbeat"), ("claim", "release"),
    ("claim", "cancel"), ("claim", "requeue"), ("claim", "finish"), ("enqueue",),
    ("enqueue", "requeue"), ("enqueue", "finish"), ("enqueue", "cancel"), ("requeue",),
    ("requeue", "cancel"), ("finish", "cancel"), ("finish", "release"), ("release",),
    ("clear", "release"), ("clear", "requeue"), ("clear", "cancel"), ("clear", "finish", "cancel"),
    ("heartbeat", "cancel", "clear"),
]  # fmt: skip

races = st.one_of(
    st.sampled_from(RIVALS),
    st.lists(st.sampled_from([*OPERATIONS]), min_size=2, max_size=3, unique=True),
).flatmap(races_of)


def limited_operations() -> st.SearchStrategy[Operation]:
    """Draw what seats are taken and given up by."""
    claims = st.tuples(st.just("claim"), st.just(()), st.integers(1, JOBS))
    outcomes = st.tuples(st.integers(0, JOBS - 1), kinds)
    finishes = st.tuples(st.just("finish"), st.lists(outcomes, min_size=1, max_size=2))
    return st.one_of(claims, claims, finishes, st.tuples(st.just("release"), numbers))


limited_races = st.builds(
    Race,
    given=st.lists(
        st.tuples(st.sampled_from(["stale", "picked", "queued", "queued"]), st.none()),
        min_size=2,
        max_size=JOBS + 2,
    ).map(tuple),
    first=limited_operations(),
    second=limited_operations(),
    third=limited_operations(),
    end_before=st.sampled_from([2, 2, 1]),
    commits=st.sampled_from([True, True, False]),
    limit=st.integers(1, 3),
)


@pytest.fixture(scope="module", params=BACKENDS)
def track(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, install_sql: list[str]
) -> Iterator[Track]:
    """The sessions of all examples of this module."""
    with clock_database(postgres_server, install_sql) as dsn, open_track(dsn, request.param) as it:
        yield it


#: A key is taken between the look of a requeue and its change, which nothing but this does.
KEY_TAKEN_MEANWHILE = Race(
    given=(("failed", "k"),),
    first=("enqueue", ["k"], "raise"),
    second=("requeue", [0]),
    third=("requeue", [0]),
    end_before=2,
    commits=True,
)


def crossed_keys(on_conflict: str) -> Race:
    """Each holds a key that the other wants, if they do not take them in one order."""
    return Race(
        given=(),
        first=("enqueue", ["m"], "raise"),
        second=("enqueue", ["k", "m", "l"], on_conflict),
        third=("enqueue", ["l", "k"], on_conflict),
        end_before=2,
        commits=False,
    )


#: Of two held jobs with one key the first is cancelled while they are queued again: the other goes.
FIRST_OF_A_KEY_CANCELLED = Race(
    given=(("failed", "k"), ("failed", "k")),
    first=("cancel", [0]),
    second=("requeue", [0, 1]),
    third=("claim", [0, 1], 1),
    end_before=2,
    commits=True,
)


@examples(120)
@given(race=races)
@example(race=KEY_TAKEN_MEANWHILE)
@example(race=crossed_keys("raise"))
@example(race=crossed_keys("skip"))
@example(race=crossed_keys("update_priority"))
@example(race=FIRST_OF_A_KEY_CANCELLED)
def test_as_if_one_by_one(track: Track, race: Race) -> None:
    track.run(race)


@examples(60)
@given(race=limited_races)
def test_limits_hold(track: Track, race: Race) -> None:
    track.run_limited(race)
