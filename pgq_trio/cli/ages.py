"""Spans of time as people type them: 90, 90s, 15m, 12h, 30d; it knows no clock."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Base = click.ParamType[float]
else:
    _Base = click.ParamType

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Age(_Base):
    """A span in seconds, or with a unit: s, m, h, d or w."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = _FORM.fullmatch(str(value).strip().lower())
        factor = _UNITS.get(found[2]) if found else None
        if found is None or factor is None:
            self.fail(f"{value!r} is no span of time, such as 90, 90s, 15m, 12h or 30d", param, ctx)
        seconds = float(found[1]) * factor
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is longer than anybody can wait", param, ctx)
        return seconds


AGE = Age()
