"""Every operation of the stores on PostgreSQL, cancelled at each step and cut at each message.

It took effect or it did not, never in part; the connection is usable or closed, the pool is whole,
and the next job can be claimed and finished.
"""

from __future__ import annotations

import anyio
import pytest

from pgq_trio.errors import ConnectionLost
from pgq_trio.testing import cancel_at_each_step
from tests.conftest import NEWEST_SERVER
from tests.property.postgres_proxy import APPLICATION, MessageProxy, open_proxy
from tests.property.postgres_worlds import (
    OPERATIONS,
    PATIENCE,
    Operation,
    State,
    Yard,
    cancel,
    claim_limited,
    claim_schedule,
    enqueue,
    enqueue_in_chunks,
    finish,
    finish_schedule,
    heartbeat,
    open_yard,
    rescue,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("postgres_server", NEWEST_SERVER, indirect=True, scope="session"),
]

#: A connection is cut with these: the others go the same ways.
CUT: tuple[Operation, ...] = (
    enqueue, enqueue_in_chunks, claim_limited, rescue, finish, heartbeat, cancel, claim_schedule,
    finish_schedule,
)  # fmt: skip


async def test_cancelled_at_each_step(installed_dsn: str) -> None:
    async with open_yard(installed_dsn) as yard:
        for operation in OPERATIONS:
            try:
                await _cancel_everywhere(yard, operation)
            except BaseException as exc:
                exc.add_note(f"in {operation.__name__}")
                raise
        assert yard.pool.get_stats()["returns_bad"] == 0


async def _cancel_everywhere(yard: Yard, operation: Operation) -> None:
    allowed = await yard.before_and_after(operation)
    seen: set[State] = set()

    async def check() -> None:
        assert yard.is_whole()
        state = await yard.state()
        assert state in allowed, state
        seen.add(state)
        await yard.works()
        await yard.restore()

    steps = await cancel_at_each_step(lambda: operation(yard.backend, yard.situation), check)
    assert sum(steps.values()) > 2
    assert len(seen) == 2, "the sweep has not seen both"


async def test_cut_at_each_message(installed_dsn: str) -> None:
    async with (
        open_proxy(installed_dsn) as proxy,
        open_yard(installed_dsn, through=proxy.dsn) as yard,
    ):
        for operation in CUT:
            try:
                await _cut_everywhere(yard, proxy, operation)
            except BaseException as exc:
                exc.add_note(f"in {operation.__name__}")
                raise


async def _cut_everywhere(yard: Yard, proxy: MessageProxy, operation: Operation) -> None:
    before, after = await yard.before_and_after(operation)
    lost: set[bool] = set()
    for message in range(1, 200):
        proxy.cut_at(message)
        is_answered = True
        try:
            with anyio.fail_after(PATIENCE):
                await operation(yard.backend, yard.situation)
        except ConnectionLost:
            is_answered = False
        passed = proxy.messages
        proxy.cut_at()
        if passed < message:
            assert is_answered
            assert lost == {False, True}, "the sweep has not seen both"
            return
        await _until_server_has_noticed(yard)
        state = await yard.state()
        assert state in ({after} if is_answered else {before, after}), (message, state)
        lost.add(state == before)
        await yard.works()
        assert yard.is_whole()
        await yard.restore()
    raise AssertionError("there is always one message more")


async def _until_server_has_noticed(yard: Yard) -> None:
    """Wait until the session that was cut has ended: until then a change may still come.

    One that was not cut is left: what it was told to do is done, as the reply has come.
    """
    if yard.pool.get_stats()["pool_available"]:
        return
    with anyio.fail_after(PATIENCE):
        while True:
            cursor = await yard.observer.execute(
                "SELECT FROM pg_stat_activity WHERE application_name = %s", [APPLICATION]
            )
            if not await cursor.fetchall():
                return
            await anyio.sleep(0.002)  # asking at once again would keep it from ending
