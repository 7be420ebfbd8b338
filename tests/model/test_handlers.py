"""What a handler's signature says."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Optional, Union
from unittest.mock import AsyncMock

import anyio
import pytest

from pgq_trio import models
from pgq_trio.errors import RegistrationError
from pgq_trio.model.handlers import (
    check_call,
    check_handler,
    describe,
    is_async_callable,
    wants_context,
)
from pgq_trio.models import Context, Context as Ctx, Job, ScheduleContext

if TYPE_CHECKING:  # a linter that moves imports here must not cost a handler its context
    from unknown_module import Something  # type: ignore[import-not-found]

    from pgq_trio.models import Context as Context2


ITSELF = "ITSELF"


async def plain(job: Job) -> None: ...
async def annotated(job: Job, ctx: Context) -> None: ...
async def renamed(job: Job, ctx: Ctx) -> None: ...
async def dotted(job: Job, ctx: models.Context) -> None: ...
async def optional(job: Job, ctx: Optional[Context] = None) -> None: ...  # noqa: UP045
async def either(job: Job, ctx: Context | None = None) -> None: ...
async def union(job: Job, ctx: Union[int, Context]) -> None: ...  # noqa: UP007
async def with_metadata(job: Job, ctx: Annotated[Context, "resources"]) -> None: ...
async def metadata_only(job: Job, ctx: Annotated[int, Context]) -> None: ...
async def quoted_inside(job: Job, ctx: Optional["Context"] = None) -> None: ...  # noqa: UP037, UP045
async def quoted(job: Job, ctx: "Context") -> None: ...  # noqa: UP037
async def itself(job: Job, ctx: ITSELF) -> None: ...  # type: ignore[valid-type]
async def beside_unknown(job: Something, ctx: Ctx) -> None: ...
async def keyword_only(job: Job, *, ctx: Context) -> None: ...
async def other_context(job: Job, ctx: ScheduleContext) -> None: ...
async def unannotated(job, ctx): ...  # type: ignore[no-untyped-def]
async def callback(job: Job, then: Callable[[Context], None]) -> None: ...
async def unresolved_callback(job: Something, then: Callable[[Nowhere], Context3]) -> None: ...  # type: ignore[name-defined] # noqa: F821
async def broken(job: Job, ctx: "1 +") -> None: ...  # type: ignore[valid-type] # noqa: F722
def sync(job: Job, ctx: Context) -> None: ...


class Handlers:
    """Methods as handlers."""

    async def method(self, job: Job, ctx: Context) -> None: ...
    def sync_method(self, job: Job) -> None: ...
    @classmethod
    async def of_class(cls, job: Job, ctx: Context) -> None: ...
    @staticmethod
    async def static(job: Job, ctx: Context) -> None: ...


class Callable_:  # noqa: N801
    """An object with an async `__call__`."""

    async def __call__(self, job: Job, ctx: Context) -> None: ...


class SyncCallable:
    """An object with a plain `__call__`."""

    def __call__(self, job: Job) -> None: ...


def configured(config: str, job: Job, ctx: Context) -> None: ...
async def configured_async(config: str, job: Job, ctx: Context) -> None: ...


@functools.wraps(annotated)
def forwarding(*args: object, **kwargs: object) -> object:
    return annotated(*args, **kwargs)  # type: ignore[arg-type]


@functools.wraps(sync)
async def in_async_clothes(*args: object) -> None: ...


@pytest.mark.parametrize(
    "func",
    [
        annotated,
        renamed,
        dotted,
        optional,
        either,
        union,
        with_metadata,
        quoted_inside,
        quoted,
        beside_unknown,
        sync,
        Handlers().method,
        Handlers.of_class,
        Handlers.static,
        Callable_(),
        functools.partial(configured, "x"),
        functools.partial(Callable_()),
        forwarding,
        in_async_clothes,
    ],
)
def test_a_parameter_annotated_with_the_context_wants_it(func: object) -> None:
    assert wants_context(func, Context)


@pytest.mark.parametrize(
    "func",
    [
        plain,
        metadata_only,
        keyword_only,
        other_context,
        unannotated,
        callback,
        unresolved_callback,
        broken,
        itself,
        Handlers().sync_method,
        SyncCallable(),
        functools.partial(optional, ctx=None),
        print,
        len,
        "no callable",
        None,
    ],
)
def test_anything_else_does_not_want_it(func: object) -> None:
    assert not wants_context(func, Context)


def test_the_schedules_context_is_another_one() -> None:
    assert wants_context(other_context, ScheduleContext)


def test_an_annotation_that_cannot_be_resolved_is_compared_by_name() -> None:
    class Context3:
        """A class no evaluation finds: it is local."""

    async def local(job: Job, ctx: Context3 | None) -> None: ...
    async def wrapped(job: Job, ctx: Annotated[Context3, 1]) -> None: ...
    async def texts(job: Job, ctx: Optional["Context3"]) -> None: ...  # noqa: UP037, UP045
    async def elsewhere(job: Job, ctx: list[Context3]) -> None: ...

    assert wants_context(local, Context3)
    assert wants_context(wrapped, Context3)
    assert wants_context(texts, Context3)
    assert not wants_context(elsewhere, Context3)


def test_an_import_under_type_checking_is_found_by_its_name() -> None:
    async def hidden(job: Something, ctx: unknown.Context) -> None: ...  # type: ignore[name-defined] # noqa: F821
    async def renamed_there(job: Job, ctx: Context2) -> None: ...

    assert wants_context(hidden, Context)
    assert not wants_context(renamed_there, Context)  # nothing tells what it was renamed from


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (plain, True),
        (sync, False),
        (Handlers().method, True),
        (Handlers().sync_method, False),
        (Handlers.static, True),
        (Callable_(), True),
        (SyncCallable(), False),
        (functools.partial(configured, "x"), False),
        (functools.partial(configured_async, "x"), True),
        (functools.partial(functools.partial(configured_async, "x")), True),
        (forwarding, True),
        (in_async_clothes, True),
        (AsyncMock(), True),
        (len, False),
        (Callable_, False),
        (None, False),
    ],
)
def test_whether_calling_it_gives_something_to_await(func: object, *, expected: bool) -> None:
    assert is_async_callable(func) is expected


@asynccontextmanager
async def managed(job: Job) -> AsyncIterator[int]:
    await anyio.lowlevel.checkpoint()
    yield 1


ASYNC_GENERATOR = inspect.unwrap(managed)


def generator(job: Job) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("func", "says"),
    [
        (None, "must be callable, got None"),
        ("work", "must be callable"),
        (ASYNC_GENERATOR, "managed is an async generator function"),
        (functools.partial(generator), "generator is a generator function"),
    ],
)
def test_what_can_never_work_is_refused(func: object, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        check_handler(func, "entrypoint")


@pytest.mark.parametrize(
    ("func", "arguments"),
    [
        (annotated, ("job",)),
        (plain, ("job", "context")),
        (keyword_only, ("job",)),
        (functools.partial(configured, config="x"), ("job", "context")),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(
    func: Callable[..., object], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(RegistrationError, match="would be called with"):
        check_call(func, "entrypoint", *arguments)


@pytest.mark.parametrize("func", [optional, either, functools.partial(optional, ctx=None), dict])
def test_a_signature_that_fits_or_cannot_be_read_is_taken(func: Callable[..., object]) -> None:
    check_call(func, "entrypoint", "job")


def test_messages_name_the_function_behind_a_partial() -> None:
    assert describe(functools.partial(Handlers().method)) == "Handlers.method"
    assert describe(Callable_()).startswith("<tests.model.test_handlers.Callable_")
