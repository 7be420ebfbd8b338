"""The reference of the test kit has a row for each public name and each fixture, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from _pytest.fixtures import FixtureFunctionDefinition

import pgq_trio.testing
from pgq_trio.testing import plugin

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "testing.md"

#: What is quoted in the first cell of each row.
NAMES = {
    name
    for cell in re.findall(r"^\| (`[^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", cell)
}


def fixtures() -> set[str]:
    """What the plugin defines for pytest."""
    there = vars(plugin).items()
    return {name for name, value in there if isinstance(value, FixtureFunctionDefinition)}


def test_every_name_and_fixture_has_a_row_and_no_other() -> None:
    assert fixtures()
    assert set(pgq_trio.testing.__all__) | fixtures() == NAMES


def test_the_types_of_fixtures_are_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in plugin.__all__ if f"`{name}`" not in text] == []
