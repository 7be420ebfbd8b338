"""How the life of shared resources begins and ends, in each way that it can.

Whole applications with jobs and schedules, in memory, on a clock that jumps. The other rows of the
contract are in `test_resources_contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import example, given, strategies as st

from pgq_trio import InMemoryDriver, Job, PgQueuer, Queries, QueueManager
from pgq_trio.errors import ResourceError
from pgq_trio.testing import BACKENDS, Backend, drain, interleavings, simulate
from tests.property.profiles import examples
from tests.property.resource_lives import CLEANUP, ENDINGS, Ending, Life
from tests.property.resource_worlds import WAYS, Crash, Tally, Way, World

backends = pytest.mark.parametrize("backend", BACKENDS)
drawn = interleavings(tasks=5)
ways = st.sampled_from(WAYS)

#: Seconds after which closing one member is given up, as the documentation says.
CLOSE_LIMIT = 10.0

#: What comes out of `open`, as itself.
RAISED: dict[Ending, type[BaseException]] = {
    "error": Crash,
    "ctrl-c": KeyboardInterrupt,
    "crash": Crash,
}


@backends
@examples(120)
@given(
    schedule=drawn,
    ending=st.sampled_from(ENDINGS),
    way=ways,
    moment=st.floats(0, 25).map(lambda seconds: round(seconds, 1)),
    seconds=st.lists(st.sampled_from([0.0, 1.0, 8.0, 60.0]), max_size=4).map(tuple),
)
def test_every_end(
    backend: Backend,
    schedule: tuple[int, ...],
    ending: Ending,
    way: Way,
    moment: float,
    seconds: tuple[float, ...],
) -> None:
    """However and whenever it ends, members are left once, after the last cleanup, in order.

    All are entered and left in the caller's task, and what ended the application comes out bare.
    """
    life = Life(ending=ending, way=way, moment=moment, seconds=seconds)

    async def scenario() -> None:
        if ending in RAISED:
            with pytest.raises(RAISED[ending]):
                await life.serve()
        else:
            await life.serve()

    simulate(scenario, schedule=schedule, backend=backend).check()
    life.check_life()
    assert set(life.tasks) == {life.caller}
    assert [who for who, what in life.events if what == "closed"] == [*life.members][::-1]
    if ending not in RAISED:
        assert ("caller", "cancelled" if ending == "cancelled" else "goes on") in life.events
        assert life.left().keys() <= {"queued"}
    if ending == "return" and 60.0 not in seconds and moment > 8 + CLEANUP:
        assert not life.left()


@backends
@examples(40)
@given(schedule=drawn, member=st.sampled_from(["outer", "inner"]), waiting=st.integers(0, 3))
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_claimed_when_entering_fails(
    backend: Backend, way: Way, schedule: tuple[int, ...], member: str, waiting: int
) -> None:
    """Jobs that waited wait on, what was entered is closed, and the caller gets the error."""
    world = World(fails_to_enter=member, way=way)
    queries = Queries(world.driver)

    async def scenario() -> list[Any]:
        await queries.enqueue(["work"] * waiting, [b"0"] * waiting)
        with pytest.raises(Crash, match=member):
            await world.serve()
        return [entry.status for entry in await queries.queue_log()]

    statuses = simulate(scenario, schedule=schedule, backend=backend).check()
    world.check_life()
    assert statuses == ["queued"] * waiting
    assert world.left() == ({"queued": waiting} if waiting else {})
    assert ("application", "runs") not in world.events
    entered = {"outer": [], "inner": ["outer"]}[member]
    assert [who for who, what in world.events if what == "closed"] == entered


@backends
@examples(40)
@given(
    schedule=drawn,
    hangs=st.sampled_from([None, "outer", "inner"]),
    failing=st.sets(st.sampled_from(["outer", "middle", "inner"])).map(frozenset),
)
def test_closing_one_by_one(
    backend: Backend, schedule: tuple[int, ...], hangs: str | None, failing: frozenset[str]
) -> None:
    """A member that fails to close, or never ends, skips no other, and every error is raised."""
    members = ("outer", "middle", "inner")
    world = World(members, way="container", hangs=hangs, fails_to_close=failing)
    failing |= {hangs} if hangs else set()

    async def scenario() -> tuple[list[Exception], float]:
        began = anyio.current_time()
        try:
            await world.serve()
        except (Crash, ResourceError, ExceptionGroup) as exc:
            return list(_leaves(exc)), anyio.current_time() - began
        return [], 0.0

    errors, took = simulate(scenario, schedule=schedule, backend=backend).check()
    left = [who for who, what in world.events if what in {"closed", "hangs"}]
    assert left == list(members)[::-1]
    kinds = [ResourceError if name == hangs else Crash for name in members[::-1] if name in failing]
    assert [type(error) for error in errors] == kinds
    # The clock jumps, so nothing but the limit takes time.
    assert took == pytest.approx(CLOSE_LIMIT if hangs else 0, abs=0.1)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


@backends
@examples(60)
@given(
    schedule=drawn,
    members=st.permutations(["crashing", "other", "plain"]).map(tuple),
    jobs=st.integers(0, 3),
)
# On Trio the error came twice, in a group: where it passes a nursery, that groups it anew.
@example(schedule=(), members=("other", "crashing", "plain"), jobs=0)
def test_a_crash_closes_in_order(
    backend: Backend, schedule: tuple[int, ...], members: tuple[str, ...], jobs: int
) -> None:
    """A member's crash cancels the jobs, all members close after them, and it comes out bare."""
    life = Life(members, way="container", seconds=(60.0,) * jobs, crashes="crashing", moment=120.0)

    async def scenario() -> None:
        with pytest.raises(Crash, match="crashing"):
            await life.serve()
        await life.count()

    simulate(scenario, schedule=schedule, backend=backend).check()
    life.check_life()
    assert ("application", "ends") not in life.events
    assert life.left() == ({"queued": jobs} if jobs else {})


class OwnContainer:
    """A container of the user's, which is no mapping and says when somebody enters or leaves it."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {"count": 0}
        self.used_as_a_manager = False

    def __getitem__(self, key: str) -> object:
        return self.values[key]

    def __setitem__(self, key: str, value: object) -> None:
        self.values[key] = value

    async def __aenter__(self) -> None:
        self.used_as_a_manager = True

    async def __aexit__(self, *_exc: object) -> None:
        self.used_as_a_manager = True


@backends
@examples(40)
@given(schedule=drawn, jobs=st.integers(1, 4))
@pytest.mark.parametrize("kind", [PgQueuer, QueueManager])
def test_a_life_that_is_the_callers(
    backend: Backend, kind: type[PgQueuer | QueueManager], schedule: tuple[int, ...], jobs: int
) -> None:
    """Without `open` applications take the container as it is and neither enter nor leave it."""
    shared, tally = OwnContainer(), Tally()
    given_: Any = shared  # no mapping by its type

    async def scenario() -> None:
        driver = InMemoryDriver()
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                # Two managers of one process may share it.
                manager = kind(driver, resources=given_)
                assert manager.resources is given_

                @manager.entrypoint("work", accepts_context=True)
                async def work(_job: Job, context: Any) -> None:
                    await tally.add_two(context.resources, "a job")

                if not number:
                    await manager.queries.enqueue(["work"] * jobs)
                tasks.start_soon(drain, manager, name=f"manager {number}")

    simulate(scenario, schedule=schedule, backend=backend).check()
    assert not shared.used_as_a_manager
    assert all(resources is shared for resources in tally.seen)
    assert not tally.stale
    assert shared["count"] == tally.count == 2 * jobs
