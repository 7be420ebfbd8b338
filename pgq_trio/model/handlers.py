"""What a handler's signature says: async or not, context or not; calls nothing, knows no queue."""

from __future__ import annotations

import ast
import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from types import FunctionType, MethodType, UnionType
from typing import Annotated, ForwardRef, Union, cast, get_args, get_origin

from pgq_trio.errors import RegistrationError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NEVER_RUNS = (
    "the {what} {name} is {kind} function: calling it runs nothing, so no work would be done. "
    "Register an `async def` or a `def` without `yield`."
)


def describe(func: object) -> str:
    """Return a callable's name for messages: its qualified name where it has one."""
    while isinstance(func, functools.partial):
        func = cast("functools.partial[object]", func).func
    name = getattr(func, "__qualname__", None)
    return name if isinstance(name, str) else repr(func)


def is_async_callable(func: object) -> bool:
    """Whether calling this gives something to await.

    Looks through partials, bound methods, objects with an async `__call__`, and decorators that
    used `functools.wraps`: a plain wrapper around an `async def` hands its coroutine on.
    """
    while True:
        if isinstance(func, functools.partial):
            func = cast("functools.partial[object]", func).func
        elif _is_coroutine_function(func):
            return True
        elif (wrapped := getattr(func, "__wrapped__", None)) is not None:
            func = wrapped
        else:
            break
    call = getattr(func, "__call__", None)  # noqa: B004 - the method itself is looked at
    if isinstance(func, FunctionType | MethodType | type) or not isinstance(
        call, FunctionType | MethodType | functools.partial
    ):
        return False
    return is_async_callable(cast("object", call))


def _is_coroutine_function(func: object) -> bool:
    if inspect.iscoroutinefunction(func):
        return True
    # Compiled functions and AsyncMock are no functions for `inspect`, but carry the flag.
    flags: object = getattr(getattr(func, "__code__", None), "co_flags", 0)
    return isinstance(flags, int) and bool(flags & inspect.CO_COROUTINE)


def wants_context(func: object, context_type: type) -> bool:
    """Whether a positional parameter of the callable is annotated with the context type.

    The annotation may be a string, `Optional`, a union or `Annotated`. A string that cannot be
    resolved here (imported under `TYPE_CHECKING`, or local to a function) is compared by name.
    """
    signature = _signature_of(func)
    if signature is None:
        return False
    names = _globals_of(func)
    return any(
        parameter.kind in _POSITIONAL and _means(parameter.annotation, context_type, names)
        for parameter in signature.parameters.values()
    )


def check_handler(func: object, what: str) -> None:
    """Refuse what can never work as a handler.

    Raises:
        RegistrationError: not callable, or a generator function, whose body no call runs.
    """
    if not callable(func):
        raise RegistrationError(
            f"the {what} must be callable, got {func!r}; register an `async def` or a `def`"
        )
    inner = _innermost(func)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        kind = "a generator" if inspect.isgeneratorfunction(inner) else "an async generator"
        raise RegistrationError(_NEVER_RUNS.format(what=what, name=describe(func), kind=kind))


def check_call(func: Callable[..., object], what: str, *arguments: str) -> None:
    """Refuse a handler that cannot be called with these positional arguments.

    Args:
        func: the handler.
        what: what it is registered as, for the message.
        *arguments: the names of what it would be called with, such as "job" and "context".

    Raises:
        RegistrationError: its signature does not fit. One that cannot be read is taken to fit.
    """
    signature = _signature_of(func)
    if signature is None:
        return
    try:
        signature.bind(*arguments)
    except TypeError as exc:
        given = ", ".join(arguments)
        raise RegistrationError(
            f"the {what} {describe(func)} would be called with ({given}), but {exc}. The context "
            "is passed second, to a positional parameter annotated with its type, or with "
            "accepts_context=True."
        ) from exc


def why_unknown_elsewhere(func: object) -> str | None:
    """Say why another process could not find this callable by its name; None: it could.

    What a decorator is going to bind to the name is not known yet, so a function at the top level
    of its module is taken to be found.
    """
    if isinstance(func, functools.partial):
        part = cast("functools.partial[object]", func)
        return why_unknown_elsewhere(part.func) or _why_unpicklable(
            (part.args, part.keywords), "an argument of the partial"
        )
    if isinstance(func, MethodType):
        owner = func.__self__
        if isinstance(owner, type):
            return why_unknown_elsewhere(owner)
        return _why_unpicklable(owner, f"its {type(owner).__name__}")
    if isinstance(func, FunctionType | type):
        name = func.__qualname__
        if name.endswith("<lambda>"):
            return "a lambda has no name"
        if "<locals>" in name:
            return f"it is local to {name.partition('.<locals>')[0]}"
        return None
    return _why_unpicklable(func, "it")


def _why_unpicklable(value: object, what: str) -> str | None:
    try:
        pickle.dumps(value)
    except Exception as exc:  # noqa: BLE001 - pickling calls the user's __reduce__
        return f"{what} cannot be pickled ({exc})"
    return None


def _signature_of(func: object) -> inspect.Signature | None:
    if not callable(func):
        return None
    try:
        return inspect.signature(func)
    except NameError:
        if sys.version_info >= (3, 14):  # annotations are evaluated late there
            import annotationlib

            return inspect.signature(func, annotation_format=annotationlib.Format.FORWARDREF)
        return None
    except (TypeError, ValueError):
        return None


def _innermost(func: object) -> object:
    """Return the function whose body runs; wrappers count as themselves."""
    while isinstance(func, functools.partial):
        func = cast("functools.partial[object]", func).func
    if isinstance(func, FunctionType | MethodType | type):
        return func
    call = getattr(func, "__call__", None)  # noqa: B004 - the method itself is looked at
    return call if isinstance(call, MethodType) else func


def _globals_of(func: object) -> dict[str, object]:
    inner = _innermost(func)
    while (wrapped := getattr(inner, "__wrapped__", None)) is not None:
        inner = _innermost(wrapped)
    if isinstance(inner, MethodType):
        inner = inner.__func__
    names: object = getattr(inner, "__globals__", {})
    return cast("dict[str, object]", names) if isinstance(names, dict) else {}


def _means(annotation: object, wanted: type, names: dict[str, object]) -> bool:
    if annotation is wanted:
        return True
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return _text_means(annotation, wanted, names)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _means(get_args(annotation)[0], wanted, names)
    if origin is Union or origin is UnionType:
        return any(_means(part, wanted, names) for part in get_args(annotation))
    value: object = getattr(annotation, "__value__", None)  # `type Ctx = Context`
    return value is not None and not isinstance(annotation, type) and _means(value, wanted, names)


def _text_means(text: str, wanted: type, names: dict[str, object]) -> bool:
    try:
        # What inspect does with all annotations at once, where one bad one spoils the rest.
        value = cast("object", eval(text, names))  # noqa: S307
    except Exception:  # noqa: BLE001 - an annotation may hold any expression
        return _node_means(_parsed(text), wanted.__name__)
    # A quoted annotation is a text within a text where annotations are texts anyway.
    return value != text and _means(value, wanted, names)


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None


def _node_means(node: ast.expr | None, name: str) -> bool:
    match node:
        case ast.Name(id=found) | ast.Attribute(attr=found):
            return found == name
        case ast.Constant(value=str(text)):
            return _node_means(_parsed(text), name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _node_means(left, name) or _node_means(right, name)
        case ast.Subscript(value=base, slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if _node_means(base, "Annotated"):
                parts = parts[:1]
            elif not (_node_means(base, "Optional") or _node_means(base, "Union")):
                parts = []
            return any(_node_means(part, name) for part in parts)
        case _:
            return False
