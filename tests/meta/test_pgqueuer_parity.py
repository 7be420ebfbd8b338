"""The page that compares with PgQueuer leaves no name, parameter, command or option of it out."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pgqueuer
import pgqueuer.queries
import pytest
import typer.main
from pgqueuer.adapters.cli import cli as peer_cli
from pgqueuer.core.completion import CompletionWatcher as PeerWatcher

import pgq_trio
from pgq_trio.cli import main
from pgq_trio.worker.options import RunArguments

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pgqueuer.md"

#: The first cell of each row, without its quotes, and the rest of the row.
ROWS = dict(re.findall(r"^\| `([^`|]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))

CLASSES: dict[str, type] = {
    "PgQueuer": pgqueuer.PgQueuer,
    "QueueManager": pgqueuer.QueueManager,
    "SchedulerManager": pgqueuer.SchedulerManager,
    "Queries": pgqueuer.Queries,
    "SyncQueries": pgqueuer.queries.SyncQueries,
    "CompletionWatcher": PeerWatcher,
}


APPLICATION = pgq_trio.PgQueuer.in_memory()
OBJECTS: dict[str, object] = {
    "PgQueuer": APPLICATION,
    "QueueManager": APPLICATION.qm,
    "SchedulerManager": APPLICATION.sm,
}
MODULES = ("db", "errors", "executors", "models", "types", "queries", "qm", "sm")


def _names() -> Iterator[str]:
    """Public names of the modules that users import from, and of the objects they get."""
    for name in MODULES:
        module = importlib.import_module(f"pgqueuer.{name}")
        own = [x for x in vars(module) if not x.startswith("_") and x != "annotations"]
        for attribute in getattr(module, "__all__", own):
            if not inspect.ismodule(getattr(module, attribute)):
                yield f"{name}.{attribute}"
    for name in OBJECTS:
        for field in dataclasses.fields(CLASSES[name]):
            yield f"{name}.{field.name}"


def _has(path: str) -> bool:
    owner, name = path.split(".")
    place = OBJECTS.get(owner) or importlib.import_module(f"pgq_trio.{owner}")
    return hasattr(place, name)


def _methods() -> Iterator[tuple[str, inspect.Signature]]:
    for name, owner in CLASSES.items():
        yield name, inspect.signature(owner)
        for attribute, value in inspect.getmembers(owner):
            # Fields of a dataclass with a class for a default look like methods.
            if not attribute.startswith("_") and inspect.isroutine(value):
                yield f"{name}.{attribute}", inspect.signature(value)


def _ours(path: str) -> Any:
    value: Any = pgq_trio
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


def _commands() -> Iterator[tuple[str, click.Command]]:
    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(f"{path} {name}", child)

    yield from walk("pgq", typer.main.get_command(peer_cli.app))


def _our_command(path: str) -> click.Command | None:
    command: click.Command | None = main
    for part in path.split()[1:]:
        command = command.commands.get(part) if isinstance(command, click.Group) else None
    return command


@pytest.mark.parametrize("name", pgqueuer.__all__)
def test_names_of_the_front_door(name: str) -> None:
    assert hasattr(pgq_trio, name) or name in ROWS


@pytest.mark.parametrize("path", list(_names()))
def test_names_of_modules_and_attributes_of_objects(path: str) -> None:
    said = path in ROWS or f"`{path}`" in PAGE.read_text(encoding="utf-8")
    assert _has(path) or said, f"{path} has no row in {PAGE.name}"


@pytest.mark.parametrize(("path", "signature"), list(_methods()), ids=lambda value: str(value)[:40])
def test_methods_and_their_parameters(path: str, signature: inspect.Signature) -> None:
    ours = _ours(path)
    row = ROWS.get(path)
    if ours is None:
        assert row is not None, f"{path} has no row in {PAGE.name}"
        return
    known = set(inspect.signature(ours).parameters)
    if "options" in known and path.endswith(".run"):
        known |= set(RunArguments.__annotations__)
    for parameter in signature.parameters:
        if parameter not in known | {"self"}:
            assert row is not None, f"{path} has no row in {PAGE.name}"
            assert f"`{parameter}`" in row, f"{path}: nothing is said about {parameter}"


@pytest.mark.parametrize(("path", "command"), list(_commands()), ids=lambda value: str(value)[:40])
def test_commands_and_their_options(path: str, command: Any) -> None:
    ours, row = _our_command(path), ROWS.get(path)
    if ours is None:
        assert row is not None, f"{path} has no row in {PAGE.name}"
        return
    known = {option for parameter in ours.params for option in parameter.opts}
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help" and option not in known:
                assert row is not None, f"{path} has no row in {PAGE.name}"
                assert f"`{option}`" in row, f"{path}: nothing is said about {option}"


@pytest.mark.parametrize("path", [path for path in ROWS if path[0].isupper()])
def test_what_a_row_says_is_there(path: str) -> None:
    """Every name of ours that a row gives in its first words exists."""
    for name in re.findall(r"→ `([A-Z]\w+(?:\.\w+)?)", ROWS[path]):
        assert _ours(name) is not None, f"{path}: {name} is not there"
