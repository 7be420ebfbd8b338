"""The table of what is proven is true: its tests and mutants are there, and none is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.property.mutants import Mutant, all_mutants

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "proof.md"
PROPERTIES = ROOT / "tests" / "property"

#: What makes a test one of many runs: examples that Hypothesis draws, or schedules, or steps.
DRIVERS = frozenset(
    {"given", "explore", "cancel_everywhere", "cancel_at_each_step", "run_state_machine_as_test"}
)


@cache
def all_tests(directory: Path) -> dict[str, ast.AST]:
    """The tests below a directory of `tests/`, by file and name as the page names them."""
    found: dict[str, ast.AST] = {}
    for file in sorted(directory.rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{file.name}::{node.name}"] = node
    return {name: node for name, node in found.items() if name.split("::")[1].startswith("test_")}


def properties() -> set[str]:
    """The tests in tests/property that try many runs."""
    return {name for name, node in all_tests(PROPERTIES).items() if set(_names(node)) & DRIVERS}


def _names(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr


def killer_of(mutant: Mutant) -> str:
    """The property that a mutant means; its name may be shortened, to what means no other."""
    file, name = mutant.killer.removeprefix("tests/property/").split("::")
    there = [test for test in all_tests(PROPERTIES) if test.startswith(f"{file}::")]
    if f"{file}::{name}" in there:
        return f"{file}::{name}"
    meant = [test for test in there if name in test.split("::")[1]]
    assert len(meant) == 1, f"{mutant.name}: {mutant.killer} means {meant or 'no property'}"
    return meant[0]


def text() -> str:
    """The page."""
    return PAGE.read_text(encoding="utf-8")


@cache
def rows() -> list[list[str]]:
    """The rows of the page's tables, cell by cell."""
    lines = re.findall(r"^\|(.+)\|$", text(), re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def named(cell: str) -> list[str]:
    """What is quoted in a cell."""
    return re.findall(r"`([^`]+)`", cell)


#: What the page says of properties: the promise, the tests and the mutants of each.
CLAIMS = [row for row in rows() if len(row) == 3 and "::" in row[1]]
#: Properties for which no fault is planted, each with the reason.
REASONS = {named(row[0])[0]: row[1] for row in rows() if len(row) == 2 and "::" in row[0]}


def test_the_page_has_tables() -> None:
    assert len(CLAIMS) > 20


def test_every_named_test_is_there() -> None:
    there = all_tests(ROOT / "tests")
    missing = {name for claim in CLAIMS for name in named(claim[1]) if name not in there}
    assert missing == set()


def test_every_property_has_a_row() -> None:
    said = {name for claim in CLAIMS for name in named(claim[1])} | REASONS.keys()
    assert properties() - said == set()


def test_every_property_finds_a_planted_fault() -> None:
    kills = {killer_of(mutant) for mutant in all_mutants()}
    assert properties() - kills == REASONS.keys()
    assert all(REASONS.values())


def test_every_mutant_stands_beside_its_killer_and_there_is_no_other() -> None:
    known = {mutant.name: killer_of(mutant) for mutant in all_mutants()}
    said: dict[str, set[str]] = {}
    for _, tests, mutants in CLAIMS:
        for mutant in named(mutants):
            said.setdefault(mutant, set()).update(named(tests))
    assert said.keys() == known.keys()
    assert {name: test for name, test in known.items() if test not in said[name]} == {}


def test_properties_draw_as_the_profile_says() -> None:
    """A property with settings of its own would not go on for longer when that is asked for."""
    own = []
    for name, node in all_tests(PROPERTIES).items():
        if isinstance(node, ast.FunctionDef):
            decorators = {inner for decorator in node.decorator_list for inner in _names(decorator)}
            if "given" in decorators and "examples" not in decorators:
                own.append(name)
    assert own == []


def test_enough_faults_are_planted() -> None:
    """As many as were asked for, and of each kind."""
    assert len(all_mutants()) >= 15


def test_mutants_are_of_different_names() -> None:
    from tests.property.mutants import mutant

    first = all_mutants()[0]
    with pytest.raises(ValueError, match=f"there is a mutant {first.name} already"):
        mutant("again", "test_queue.py::test_x")(first.plant)
