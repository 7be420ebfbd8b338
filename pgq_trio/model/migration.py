"""The record of one step of an upgrade; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Migration"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One numbered step of an upgrade, as one database needs it.

    Attributes:
        number: its place in the order of all steps; a number keeps its meaning for ever.
        name: what it does.
        statements: the SQL of this database, without semicolons; applied in this order.
    """

    number: int
    name: str
    statements: tuple[str, ...]
