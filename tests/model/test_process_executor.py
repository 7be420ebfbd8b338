"""Which handlers a worker process can be given, and in which words the others are refused."""

from __future__ import annotations

import functools
import threading

import pytest

from pgq_trio.errors import RegistrationError
from pgq_trio.executors import Entrypoint, EntrypointExecutorParameters, ProcessExecutor
from pgq_trio.models import Context, Job
from tests.model.records import context, job


async def nothing(one: Job) -> None: ...


class Counter:
    """Handlers of every kind; one of its attributes may be what no process can be sent."""

    def __init__(self, held: object = None) -> None:
        self.held = held

    def method(self, one: Job) -> None: ...

    @classmethod
    def of_class(cls, one: Job) -> None: ...

    def __call__(self, one: Job) -> None: ...


def plain(one: Job) -> None: ...


def with_context(one: Job, ctx: Context) -> None: ...


def with_more(one: Job, *, more: object) -> None: ...


def local_function() -> Entrypoint:
    def local(one: Job) -> None: ...

    return local


def local_class() -> Entrypoint:
    class Local(Counter):
        pass

    return Local().method


@pytest.mark.parametrize(
    ("func", "says"),
    [
        (nothing, "nothing is async, and a worker process has no event loop"),
        (functools.partial(nothing), "is async"),
        (lambda one: None, "a lambda has no name"),  # noqa: ARG005
        (local_function(), "it is local to local_function"),
        (functools.partial(local_function()), "it is local to local_function"),
        (local_class(), "cannot be pickled"),
        (Counter(threading.Lock()).method, "its Counter cannot be pickled"),
        (Counter(threading.Lock()), "it cannot be pickled"),
        (functools.partial(with_more, more=threading.Lock()), "an argument of the partial"),
        (lambda: None, "would be called with"),
    ],
)
def test_a_handler_that_no_process_could_find_is_refused(func: Entrypoint, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        ProcessExecutor(EntrypointExecutorParameters(func=func))


def test_a_process_gets_no_context() -> None:
    with pytest.raises(RegistrationError, match="resources live in this one"):
        ProcessExecutor(EntrypointExecutorParameters(func=with_context, accepts_context=True))
    for count in (0, -1, True, 1.5, "2"):
        with pytest.raises(RegistrationError, match="max_workers must be a whole number"):
            ProcessExecutor(EntrypointExecutorParameters(func=plain), max_workers=count)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "func",
    [
        plain,
        functools.partial(with_more, more=[1]),
        Counter().method,
        Counter.of_class,
        Counter(),
        Counter,
        print,
    ],
)
def test_a_handler_that_can_be_found_is_taken(func: Entrypoint) -> None:
    ProcessExecutor(EntrypointExecutorParameters(func=func), max_workers=2)


def test_a_module_that_is_being_imported_has_no_names_yet() -> None:
    """`@pgq.entrypoint(...)` on a module's function: its name is bound after the registration."""

    def handler(one: Job) -> None: ...

    handler.__qualname__ = "handler"
    ProcessExecutor(EntrypointExecutorParameters(func=handler))


async def test_a_name_that_stands_for_something_else_fails_the_job_in_words() -> None:
    def handler(one: Job) -> None: ...

    handler.__qualname__ = "plain"
    with pytest.raises(RuntimeError, match="plain cannot be sent to a worker process"):
        await ProcessExecutor(EntrypointExecutorParameters(func=handler)).execute(job(), context())
