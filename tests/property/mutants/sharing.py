"""Faults in how resources are shared and closed."""

from __future__ import annotations

from typing import Any

from pgq_trio import core, models
from pgq_trio.concurrency import closing
from pgq_trio.worker import dispatcher, leases
from tests.property.mutants import mutant, replace


@mutant(
    "each job gets a copy of the resources",
    "test_resources_contract.py::test_identity_and_mutation",
)
def copied_resources() -> None:
    original = models.Context

    def context(*, resources: Any, **fields: Any) -> Any:
        return original(resources=dict(resources), **fields)

    replace(dispatcher, "Context", context)


@mutant(
    "a job's context outlives the job", "test_resources_contract.py::test_access_ends_with_the_job"
)
def stale_context() -> None:
    kept: dict[int, Any] = {}
    original = leases.Leases.context_of

    def context_of(self: Any, job_id: int) -> Any:
        try:
            kept[job_id] = original(self, job_id)
        except KeyError:
            if job_id not in kept:
                raise
        return kept[job_id]

    replace(leases.Leases, "context_of", context_of)
    last: list[Any] = []
    begin = core.Core._begin

    def remember(self: Any, **options: Any) -> Any:
        engine = begin(self, **options)
        last.append(engine)
        return engine

    replace(core.Core, "_begin", remember)
    replace(core.Core, "context_of", lambda _self, job_id: last[-1].context_of(job_id))


@mutant(
    "members are closed first in, first out", "test_resources_contract.py::test_the_ready_container"
)
def first_in_first_out() -> None:
    original = closing.ClosingStack.close

    async def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._entries.reverse()
        return await original(self, *args, **kwargs)

    replace(closing.ClosingStack, "close", close)
