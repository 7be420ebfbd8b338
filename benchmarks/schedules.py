"""How many runs it takes to find a fault, for each way to draw schedules.

`python -m benchmarks.schedules` looks for the deep faults of the kit's tests; with `--mutants` for
faults of the library that `tests.property.mutants` plants, by the property that finds each. A
figure is the median over seeds, in brackets in how many of them it was found at all.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st, target

from benchmarks.rivals import RIVALS, decisions_of
from pgq_trio.testing import simulate
from tests.kit.deep_faults import DEEP_FAULTS, DeepFault
from tests.property.mutants import all_mutants

#: Raises when the fault is there; gets what is drawn.
Attempt = Callable[..., None]

#: How many tasks the workers of the properties have, about.
WORKERS_TASKS = 6


class Found(Exception):  # noqa: N818 - it is no error
    """The fault struck."""


def runs_until_found(
    attempt: Attempt, drawn: dict[str, st.SearchStrategy[Any]], number: int, limit: int
) -> int | None:
    """Return the number of the run that fails under this seed, None if none does."""
    runs = 0
    found: int | None = None

    def count(**arguments: Any) -> None:
        nonlocal runs, found
        if found is not None:
            raise Found  # Hypothesis runs it once more
        runs += 1
        try:
            attempt(**arguments)
        except Exception as exc:
            found = runs
            raise Found from exc

    options = settings(
        max_examples=limit,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        seed(number)(options(given(**drawn)(count)))()
    except Found:
        return found
    return None


def attempt_at(fault: DeepFault, *, is_guided: bool) -> Attempt:
    """Return a test of a deep fault; guided ones tell Hypothesis what they came upon."""

    def attempt(schedule: Any) -> None:
        run = simulate(fault.strikes, schedule=schedule)
        if is_guided:
            came_upon = set(zip(run.trace, run.trace[1:], run.trace[2:], strict=False))
            target(float(len(came_upon)), label="who came after whom")
        if run.check():
            raise Found

    return attempt


def figure(counts: Iterable[int | None], limit: int) -> str:
    """Return the median and how many were found."""
    counts = list(counts)
    median = statistics.median(limit if count is None else count for count in counts)
    found = sum(count is not None for count in counts)
    return f"{'>= ' if median >= limit else ''}{median:.0f} ({found}/{len(counts)})"


def deep_faults(rivals: list[str], only: list[str], seeds: int, limit: int) -> None:
    """Print a row for each deep fault."""
    for fault in DEEP_FAULTS:
        if only and fault.name not in only:
            continue
        row = [f"{fault.name:34}"]
        for name in rivals:
            attempt = attempt_at(fault, is_guided="guided" in name)
            drawn = {"schedule": RIVALS[name](fault.tasks)}
            counts = [runs_until_found(attempt, drawn, number, limit) for number in range(seeds)]
            row.append(f"{figure(counts, limit):>16}")
        print("".join(row), flush=True)


def mutant_row(name: str, rivals: list[str], seeds: int, limit: int) -> None:
    """Plant a fault of the library in this process and print its row."""
    logging.disable()
    mutant = next(mutant for mutant in all_mutants() if mutant.name == name)
    path, begin = mutant.killer.split("::")
    module = import_module(path.removesuffix(".py").replace("/", "."))
    test: Any = next(value for key, value in vars(module).items() if key.startswith(begin))
    drawn = dict(test.hypothesis._given_kwargs)  # noqa: SLF001 - there is no public way to them
    if "schedule" not in drawn:
        raise SystemExit(f"the property that finds {name} draws no schedule")
    mutant.plant()

    def attempt(**arguments: Any) -> None:
        test.hypothesis.inner_test(backend="trio", **arguments)

    row = [f"{name:34}"]
    for rival in rivals:
        drawn["schedule"] = RIVALS[rival](WORKERS_TASKS)
        counts = [runs_until_found(attempt, drawn, number, limit) for number in range(seeds)]
        row.append(f"{figure(counts, limit):>16}")
    print("".join(row), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--limit", type=int, default=1000, help="runs a seed")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS)[:-1], choices=list(RIVALS))
    parser.add_argument("--faults", nargs="*", default=[], help="names of deep faults")
    parser.add_argument("--mutants", nargs="*", default=[], help="names of mutants instead")
    parser.add_argument("--mutant", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with patch("pgq_trio.testing.simulate.Decisions", decisions_of):
        if chosen.mutant:
            mutant_row(chosen.mutant, chosen.rivals, chosen.seeds, chosen.limit)
            return
        print(" " * 34 + "".join(f"{name:>16}" for name in chosen.rivals), flush=True)
        if not chosen.mutants:
            deep_faults(chosen.rivals, chosen.faults, chosen.seeds, chosen.limit)
    for name in chosen.mutants:
        # Each in a process of its own, since what is planted stays.
        subprocess.run(
            [sys.executable, "-m", "benchmarks.schedules", "--mutant", name,
             "--seeds", str(chosen.seeds), "--limit", str(chosen.limit),
             "--rivals", *chosen.rivals],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
