"""Reads what `catalog.sql` found: one object's definition at a time; pure, knows no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pgq_trio.schema.declaration import STATUS_LABELS, TABLES, Column, IndexObject
from pgq_trio.schema.objects import USED_LABELS

__all__ = ["Found", "FoundColumn", "Key", "absent_places", "index_text", "missing_labels"]

#: Kind and name of an object as `catalog.sql` gives them, and its definition.
Key: TypeAlias = tuple[str, str]
Found: TypeAlias = Mapping[Key, str]

#: Types whose every value the declared type can hold as well.
_NARROWER = {"bigint": {"integer", "smallint"}, "integer": {"smallint"}}


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """An installed column; `sequence` is the type of the sequence behind it, if there is one."""

    type: str
    not_null: bool
    default: str | None
    sequence: str | None

    @classmethod
    def parse(cls, definition: str) -> FoundColumn:
        """Read a definition such as `bigint NOT NULL GENERATED AS integer`."""
        head, _, default = definition.partition(" DEFAULT ")
        head, generated, sequence = head.partition(" GENERATED")
        return cls(
            type=head.removesuffix(" NOT NULL"),
            not_null=head.endswith(" NOT NULL"),
            default=default or None,
            sequence=(sequence.removeprefix(" AS ") or "bigint") if generated else None,
        )

    def is_narrow(self, column: Column) -> bool:
        """Whether its type only has to be widened to be the declared one."""
        return self.type in _NARROWER.get(column.type, ())

    def can_become(self, column: Column) -> bool:
        """Whether an upgrade makes it the declared column: without a loss, whatever it holds."""
        if self.type != column.type and not self.is_narrow(column):
            return False
        return (self.sequence is None) == (column.kind == "plain")


def absent_places(found: Found) -> set[str]:
    """Return the places, from 1 on, of the tables that are not there."""
    places = {str(place) for place in range(1, len(TABLES) + 1)}
    return places - {name for kind, name in found if kind == "table"}


def index_text(index: IndexObject) -> str:
    """Return the definition of a declared index as `catalog.sql` spells it."""
    return f"{'UNIQUE ' if index.unique else ''} {index.body}"


def missing_labels(found: Found) -> list[str]:
    """Return the states that the status type lacks and that an upgrade can add."""
    labels = found.get(("type", ""), "").split(", ")
    return [label for label in STATUS_LABELS if label not in labels and label not in USED_LABELS]
