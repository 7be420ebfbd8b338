"""From `module:factory` to an application that is open; it runs nothing."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial, reduce
from typing import TypeAlias, cast

import click

from pgq_trio.app import PgQueuer
from pgq_trio.cli.program import Failure, describe
from pgq_trio.qm import QueueManager
from pgq_trio.sm import SchedulerManager

Application: TypeAlias = PgQueuer | QueueManager | SchedulerManager
Factory: TypeAlias = Callable[..., object] | AbstractAsyncContextManager[object]

_WANTED = (
    "a factory is an async context manager that yields a PgQueuer, or a function, async or not, "
    "that returns one"
)


def parts_of(name: str) -> tuple[str, str]:
    """Return module and attribute of `module:factory`.

    Raises:
        click.UsageError: it is not of this form.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise click.UsageError(f"{name!r} is not of the form module:factory")
    return module_name, attribute


def load_factory(name: str, arguments: Sequence[str] = ()) -> Factory:
    """Import the factory that `module:factory` names; the current directory is importable.

    Args:
        arguments: if there are any, the factory is called with one list of them.

    Raises:
        click.UsageError: it is not of this form.
        Failure: there is no such module or attribute, or it is no factory.
    """
    module_name, attribute = parts_of(name)
    found = _attribute(_import(module_name), module_name, attribute)
    if isinstance(found, AbstractAsyncContextManager):
        if arguments:
            raise Failure(f"{name} is no function, so it takes no arguments after --")
        return cast("AbstractAsyncContextManager[object]", found)
    if isinstance(found, Application):
        raise Failure(f"{name} is a {type(found).__name__}, not a factory: {_WANTED}")
    if not callable(found):
        raise Failure(f"{name} is not callable: it is {_kind(found)}; {_WANTED}")
    given = [list(arguments)] if arguments else []
    _check_arguments(name, found, given)
    return partial(found, *given)


def _import(name: str) -> object:
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path is a text
    if not {here, ""} & set(sys.path):
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise Failure(f"there is no module {exc.name!r} (looked in {here} too)") from exc
        raise Failure(f"importing {name} failed: {describe(exc)}") from exc
    except Exception as exc:
        raise Failure(f"importing {name} failed: {describe(exc)}") from exc


def _attribute(module: object, module_name: str, attribute: str) -> object:
    try:
        return reduce(_get, attribute.split("."), module)
    except AttributeError as exc:
        public = [name for name, value in vars(module).items() if _may_be_meant(value, module_name)]
        known = f"; it has {', '.join(public)}" if public else ""
        raise Failure(f"the module {module_name!r} has no {attribute!r}{known}") from exc


def _get(value: object, name: str) -> object:
    return cast("object", getattr(value, name))


def _may_be_meant(value: object, module_name: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == module_name


def _check_arguments(name: str, factory: Callable[..., object], given: list[list[str]]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some builtins have none
        return
    how = "with one list, the arguments after --" if given else "without arguments"
    try:
        signature.bind(*given)
    except TypeError as exc:
        raise Failure(
            f"{name} is called {how}, but it is {name}{signature}: {exc}. How to "
            "connect is in the environment (PGQUEUER_DSN), where `PgQueuer.open()` finds it"
        ) from exc


@asynccontextmanager
async def open_application(name: str, factory: Factory) -> AsyncGenerator[Application]:
    """Call the factory, enter what it returns, and yield the application.

    Raises:
        Failure: what it returns or yields is no application.
        Whatever it raises.
    """
    made: object = factory
    if not isinstance(factory, AbstractAsyncContextManager):
        made = factory()
        if inspect.isawaitable(made):
            made = await cast("Awaitable[object]", made)
    if isinstance(made, AbstractAsyncContextManager):
        async with cast("AbstractAsyncContextManager[object]", made) as entered:
            yield _checked(name, entered, "yielded")
    else:
        yield _checked(name, made, "returned")


def _checked(name: str, made: object, verb: str) -> Application:
    if isinstance(made, Application):
        return made
    hint = _WANTED
    if inspect.isasyncgen(made):
        hint = "decorate it with contextlib.asynccontextmanager"
    raise Failure(f"{name} {verb} {_kind(made)}, not a PgQueuer; {hint}")


def _kind(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__qualname__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
