"""Faults in how resources are shared with handlers."""

from __future__ import annotations

import copy
from typing import Any

from pgq_trio import app, core, managers, models, resources
from pgq_trio.errors import UnknownJob
from pgq_trio.executors import calling, entrypoints
from pgq_trio.scheduler import fires
from pgq_trio.worker import dispatcher, leases
from tests.property.mutants import mutant, replace

_IDENTITY = "test_resources_contract.py::test_identity_and_mutation"


@mutant("each job gets a copy of the resources", _IDENTITY)
def copied_resources() -> None:
    original = models.Context

    def context(*, resources: Any, **fields: Any) -> Any:
        return original(resources=dict(resources), **fields)

    replace(dispatcher, "Context", context)


@mutant("each fire of a schedule gets a copy of the resources", _IDENTITY)
def copied_for_schedules() -> None:
    original = models.ScheduleContext

    def context(*, resources: Any, **fields: Any) -> Any:
        return original(resources=dict(resources), **fields)

    replace(fires, "ScheduleContext", context)


@mutant("the application's own view of the resources is a copy", _IDENTITY)
def copied_for_closures() -> None:
    for kind in (managers.Manager, app.PgQueuer):
        replace(kind, "resources", property(lambda self: dict(self._core.resources)))


class _Late(dict[str, object]):
    """A job's own view of a container, which learns of changes at the end."""

    def __init__(self, original: Any) -> None:
        super().__init__(original)
        self.original = original


@mutant(
    "the context that a job asks for has a copy",
    "test_resources.py::test_jobs_share_one_container_in_memory",
)
def copied_for_askers() -> None:
    original = core.Core.context_of

    def context_of(self: Any, job_id: int) -> Any:
        context = original(self, job_id)
        return models.Context(
            resources=copy.copy(context.resources),
            cancellation=context.cancellation,
            deadline=context.deadline,
        )

    replace(core.Core, "context_of", context_of)


@mutant("what a job changes is written when it ends", _IDENTITY)
def late_changes() -> None:
    original = models.Context

    def context(*, resources: Any, **fields: Any) -> Any:
        return original(resources=_Late(resources), **fields)

    execute = dispatcher._execute

    async def execute_and_write(executor: Any, job: Any, context: Any) -> Any:
        try:
            return await execute(executor, job, context)
        finally:
            context.resources.original.update(context.resources)

    replace(dispatcher, "Context", context)
    replace(dispatcher, "_execute", execute_and_write)


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

    def context_of_any(_self: object, job_id: int) -> Any:
        if not last:
            raise UnknownJob(job_id)
        return last[-1].context_of(job_id)

    replace(core.Core, "context_of", context_of_any)


@mutant(
    "a constructor copies the mapping that it is given",
    "test_resources_life.py::test_a_life_that_is_the_callers",
)
def constructor_copies() -> None:
    def plain(source: Any) -> dict[str, Any]:
        return dict(getattr(source, "values", source))

    replace(managers, "plain_resources", plain)


@mutant(
    "what a factory returns is copied into a container of ours",
    "test_resources_contract.py::test_giving_them",
)
def registry_rebuilt() -> None:
    original = resources.opened_resources._enter

    async def enter(self: Any, source: object, calls: int = 0) -> Any:
        return dict(await original(self, source, calls))

    replace(resources.opened_resources, "_enter", enter)


@mutant(
    "a coroutine that a sync handler returns is dropped",
    "test_resources_contract.py::test_a_forgotten_await",
)
def dropped_coroutine() -> None:
    async def call_in_thread(func: Any, *args: Any, limiter: object) -> None:
        result = func(*args)
        if result is not None:
            result.close()

    replace(calling, "call_in_thread", call_in_thread)
    replace(entrypoints, "call_in_thread", call_in_thread)
