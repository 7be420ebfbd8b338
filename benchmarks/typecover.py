"""Fail unless every public name has a complete type, as pyright sees the installed package."""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    """Print what lacks a type. Returns the exit code."""
    command = ["pyright", "--verifytypes", "pgq_trio", "--ignoreexternal", "--outputjson"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(result.stdout)["typeCompleteness"]
    for symbol in report["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            for diagnostic in symbol["diagnostics"]:
                print(symbol["name"], diagnostic["message"].splitlines()[0])
    score = report["completenessScore"]
    print(f"types of the public names: {score:.1%} complete")
    return 0 if score == 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
