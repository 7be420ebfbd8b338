"""Faults in shields and cancellation."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import anyio
import anyio.lowlevel

from pgq_trio.worker import claimer, dispatcher, worker
from tests.property.mutants import mutant, replace


@mutant("a claim can be abandoned half way", "test_queue.py::test_cancelled_at_every_step")
def no_shield_around_claims() -> None:
    async def answer_to(_what: str, statement: Awaitable[Any], **_options: object) -> Any:
        return await statement

    replace(claimer, "answer_to", answer_to)


@mutant("what is written at the end is not shielded", "test_queue.py::test_cancelled_at_every_step")
def no_shield_around_the_end() -> None:
    async def hand_back(self: Any) -> None:
        await self._writer.flush()

    replace(worker.Worker, "hand_back", hand_back)


@mutant("the last outcomes are dropped", "test_queue.py::test_cancelled_at_every_step")
def no_last_flush() -> None:
    async def hand_back(_self: object) -> None:
        await anyio.lowlevel.checkpoint()

    replace(worker.Worker, "hand_back", hand_back)


@mutant("a job's cancellation counts as its success", "test_queue.py::test_a_requested_shutdown")
def swallowed_cancel() -> None:
    original = dispatcher._execute

    async def execute(*args: Any) -> Exception | None:
        try:
            return await original(*args)
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - that is the fault
            return None  # noqa: ASYNC104 - that is the fault

    replace(dispatcher, "_execute", execute)


@mutant("an interrupted job is not queued again", "test_queue.py::test_a_requested_shutdown")
def interrupted_is_lost() -> None:
    def interrupted(self: Any, lease: Any) -> None:
        self._leases.drop(lease)

    replace(dispatcher.Dispatcher, "_interrupted", interrupted)
