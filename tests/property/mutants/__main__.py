"""Runs for each fault the property that has to find it: `python -m tests.property.mutants [NAME]`.

First the properties themselves, which have to hold without a fault: one that is broken would find
them all. Two processes at a time, since each one computes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.property.mutants import MUTANT, Mutant, all_mutants
from tests.property.profiles import PROFILE

AT_A_TIME = 2

#: Characters of a failure that the table shows, to be seen that it is the right one.
_WIDTH = 70

#: Seconds that one property may take, before this says that it hangs.
_LIMIT = 600


def run(killer: str, backend: str, fault: str | None) -> tuple[str, str] | None:
    """Run a property; return which test failed and what it said, None when it holds.

    Raises:
        SystemExit: there is no such property, or it cannot be run.
        TimeoutExpired: it hangs.
    """
    path, name = killer.split("::")
    if f"def {name}(" in Path(path).read_text(encoding="utf-8"):
        selection = [killer, "-k", backend]  # not those whose names begin alike
    else:
        selection = [path, "-k", f"{name} and {backend}"]
    # The examples of CI, which are the same each time; it fails for one fault, not for two.
    environment = os.environ | {PROFILE: "ci", MUTANT: fault or "", "COLUMNS": "240"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--show-capture=no",
         "-p", "no:cacheprovider", *selection],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT,
    )  # fmt: skip
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED ")]
    if result.returncode == 1 and failed:
        test, _, said = failed[0].removeprefix("FAILED ").partition(" - ")
        return test, said
    if result.returncode != 0:
        raise SystemExit(f"{killer} on {backend}: {result.stdout[-2000:]}{result.stderr[-2000:]}")
    return None


def find(mutant: Mutant, backend: str) -> tuple[str, str] | None:
    """Run the killer of a mutant; None when the mutant survives."""
    return run(mutant.killer, backend, mutant.name)


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Return the mutants of these names, all of them where there is none.

    Raises:
        SystemExit: a name is unknown.
    """
    mutants = [mutant for mutant in all_mutants() if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in mutants}:
        raise SystemExit(f"there is no mutant {', '.join(sorted(unknown))}")
    return mutants


def main(arguments: Sequence[str]) -> int:
    """Print which property kills which mutant; return 1 when one survives or one is broken."""
    parser = argparse.ArgumentParser(prog="mutants", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="mutants to plant; all of them by default")
    parser.add_argument("--backend", choices=["trio", "asyncio"], default="trio")
    options = parser.parse_args(arguments)
    mutants = chosen(options.names)
    killers = sorted({mutant.killer for mutant in mutants})
    wrong = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        clean = pool.map(partial(run, backend=options.backend, fault=None), killers)
        for killer, failure in zip(killers, clean, strict=True):
            if failure is not None:
                wrong += 1
                print(f"FAILS WITHOUT A FAULT: {killer}: {failure[1]}", flush=True)
        found = pool.map(partial(find, backend=options.backend), mutants)
        for mutant, kill in zip(mutants, found, strict=True):
            wrong += kill is None
            test, said = kill or ("SURVIVES", "")
            test = test.removeprefix("tests/property/")
            print(f"{mutant.name:28} {test:70} {mutant.what}", flush=True)
            print(f"{'':28} {said[:_WIDTH]}", flush=True)
    print(f"{len(mutants)} faults, {len(killers)} properties, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
