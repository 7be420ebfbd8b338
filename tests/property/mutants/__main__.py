"""Runs for each fault the property that has to find it: `python -m tests.property.mutants [NAME]`.

Two at a time, since each one is a process that computes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.property.mutants import MUTANT, Mutant, all_mutants

AT_A_TIME = 2


def find(mutant: Mutant) -> str | None:
    """Run the killer of a mutant; return the property that failed, None when it survives."""
    path, name = mutant.killer.split("::")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--show-capture=no",
         "-p", "no:cacheprovider", path, "-k", f"{name} and trio"],
        env=os.environ | {MUTANT: mutant.name},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED ")]
    if result.returncode == 1 and failed:
        return failed[0].removeprefix("FAILED ").split(" - ")[0]
    if result.returncode != 0:
        raise SystemExit(f"{mutant.name}: {result.stdout[-2000:]}{result.stderr[-2000:]}")
    return None


def main(names: Sequence[str]) -> int:
    """Print which property kills which mutant; return 1 when one survives."""
    mutants = [mutant for mutant in all_mutants() if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in mutants}:
        raise SystemExit(f"there is no mutant {', '.join(sorted(unknown))}")
    survivors = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for mutant, killer in zip(mutants, pool.map(find, mutants), strict=True):
            survivors += killer is None
            print(f"{mutant.name:28} {killer or 'SURVIVES':80} {mutant.what}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
