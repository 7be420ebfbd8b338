"""Faults planted on purpose: a property is believed when it fails on the broken library.

A room of faults a module, each fault a function that plants it by patching. `PGQ_MUTANT=name
pytest ...` plants one for a whole run (see ../conftest.py). `just mutants` runs for each the
property that has to find it, and fails when one survives.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from unittest.mock import patch

from hypothesis import Phase

from tests.property import profiles

#: The environment variable that names the fault to plant.
MUTANT = "PGQ_MUTANT"

_PROPERTIES = "tests/property/"


@dataclass(frozen=True)
class Mutant:
    """A fault, how to plant it, and the property that finds it."""

    name: str
    what: str
    killer: str
    plant: Callable[[], object]


_MUTANTS: list[Mutant] = []


def mutant(what: str, killer: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register a fault under the name of the function that plants it.

    Args:
        what: the fault, in a few words.
        killer: the property that has to find it, such as `test_queue.py::test_one_job_a_key`; its
            name, or so much of it that no other property of the file is meant.
    """

    def register(plant: Callable[[], object]) -> Callable[[], object]:
        if any(known.name == plant.__name__ for known in _MUTANTS):
            raise ValueError(f"there is a mutant {plant.__name__} already")
        _MUTANTS.append(Mutant(plant.__name__, what, _PROPERTIES + killer, plant))
        return plant

    return register


def replace(owner: object, name: str, value: object) -> None:
    """Put something else in a place until the process ends."""
    patch.object(owner, name, value).start()


def all_mutants() -> list[Mutant]:
    """Return the faults of all rooms."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            import_module(f"{__name__}.{module.name}")
    return list(_MUTANTS)


def plant_from_environment() -> None:
    """Plant the fault that the environment names, if it names one.

    What finds it is not shrunk: that takes most of the time, and only whether it is found matters.
    """
    name = os.environ.get(MUTANT)
    if name:
        phases = tuple(phase for phase in profiles._PHASES if phase is not Phase.shrink)
        replace(profiles, "_PHASES", phases)
        next(mutant for mutant in all_mutants() if mutant.name == name).plant()
