"""A run as code that repeats it: its scenario, its arguments, its schedule; runs nothing."""

from __future__ import annotations

import ast
import functools
import inspect
import reprlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from types import MethodType
from typing import Any

__all__ = ["call_code", "code_of", "schedule_code", "switches"]

#: Zeros in a row from which on they are counted instead of written.
_MANY = 8

#: Longest code of one argument.
_LONGEST = 100

_SHORTENING = reprlib.Repr()
_SHORTENING.maxstring = _SHORTENING.maxother = _LONGEST
_SHORTENING.maxlong = 40
_SHORTENING.maxlist = _SHORTENING.maxtuple = _SHORTENING.maxset = _SHORTENING.maxdict = 8
_SHORTENING.maxlevel = 4


def call_code(function: str, positional: Sequence[str], options: Iterable[tuple[str, str]]) -> str:
    """Return the code of a call."""
    arguments = [*positional, *(f"{name}={code}" for name, code in options)]
    return f"{function}({', '.join(arguments)})"


def code_of(value: object, unknown: str = "...") -> str:
    """Return code for a value: its name or its repr, which is shortened when it is long.

    Of an object whose repr is no code it is the name of its class, as in `World(...)`: that the
    reader has to fill in.

    Args:
        value: what to tell.
        unknown: what stands for a function without a name.
    """
    if isinstance(value, functools.partial):
        arguments = [code_of(value.func, unknown), *map(code_of, value.args)]
        named = [(name, code_of(given)) for name, given in value.keywords.items()]
        return call_code("partial", arguments, named)
    if isinstance(value, MethodType):
        return f"{code_of(value.__self__)}.{value.__name__}"
    if inspect.isroutine(value) or isinstance(value, type):
        return _name(value, unknown)
    code = _SHORTENING.repr(value)
    if len(code) <= _LONGEST * 2 and _is_code(code):
        return code
    return f"{type(value).__name__}(...)"


def schedule_code(picks: Sequence[int]) -> str:
    """Return the code of a schedule, in which long rows of zeros are counted.

    >>> schedule_code((0, 1))
    '(0, 1)'
    >>> schedule_code([0] * 50 + [1])
    '(*[0] * 50, 1)'
    """
    parts: list[str] = []
    for pick, row in groupby(picks):
        length = len(list(row))
        parts += [f"*[{pick}] * {length}"] if length >= _MANY else [str(pick)] * length
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def switches(trace: Iterable[str], last: int) -> str:
    """Return which task went when, `x2` for two steps in a row; the last so many of them."""
    rows = [(name, len(list(steps))) for name, steps in groupby(trace)]
    shown = [f"{name} x{count}" if count > 1 else name for name, count in rows[-last:]]
    return ", ".join(["...", *shown] if len(rows) > last else shown)


def _name(value: Any, unknown: str) -> str:
    # What is defined within a function is known there by its last name.
    name = str(getattr(value, "__qualname__", unknown)).rpartition("<locals>.")[2]
    return name if _is_code(name) else unknown


def _is_code(text: str) -> bool:
    if not text:
        return False
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True
