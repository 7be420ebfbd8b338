"""Dedupe keys are one namespace for both packages."""

from __future__ import annotations

import pytest

from tests.interop.sides import SKIPPED, Pair


async def test_a_key_of_one_blocks_the_other(pair: Pair) -> None:
    job_id = await pair.one.enqueue(b"first", key="k", priority=1)
    with pytest.raises(pair.other.duplicate):
        await pair.other.enqueue(b"second", key="k")
    assert await pair.other.enqueue(b"third", key="k", on_conflict="skip") == SKIPPED
    # Not the entrypoint's: the key of any job.
    with pytest.raises(pair.other.duplicate):
        await pair.other.enqueue(name="b", key="k")
    assert pair.fetch("SELECT id, payload, priority, dedupe_key FROM pgqueuer") == [
        (job_id, b"first", 1, "k")
    ]
    assert await pair.other.enqueue(key="another") != SKIPPED


async def test_the_other_raises_the_priority_of_what_is_queued(pair: Pair) -> None:
    job_id = await pair.one.enqueue(b"first", key="k", priority=1)
    for priority, expected in ((5, 5), (2, 5)):
        update = pair.other.enqueue(b"x", key="k", priority=priority, on_conflict="update_priority")
        assert await update == job_id
        assert pair.fetch("SELECT payload, priority FROM pgqueuer") == [(b"first", expected)]
    seen = await pair.one.run_one()
    assert (seen.id, seen.priority) == (job_id, 5)


@pytest.mark.parametrize("ending", ["return", "raise"])
async def test_a_key_is_free_when_its_job_has_ended(pair: Pair, ending: str) -> None:
    await pair.one.enqueue(key="k")
    async with pair.other.work("wait") as worker:
        await worker.jobs(1)
        # Still taken while it runs.
        for side in (pair.one, pair.other):
            assert await side.enqueue(key="k", on_conflict="skip") == SKIPPED
        await worker.release()
    second = await pair.one.enqueue(key="k")
    await pair.other.run_one("raise" if ending == "raise" else "return")
    third = await pair.other.enqueue(key="k")
    assert third > second


async def test_a_held_job_gives_its_key_away(pair: Pair) -> None:
    held = await pair.one.enqueue(key="k")
    await pair.one.run_one("raise", on_failure="hold")
    later = await pair.other.enqueue(key="k")
    assert await pair.other.failed() == [held]
    await pair.other.run_one()
    await pair.other.requeue(held)
    assert (await pair.one.run_one()).id == held
    assert later > held
