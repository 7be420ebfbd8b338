"""The examples run as they stand, in an empty directory and with warnings as errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HELLO = Path(__file__).parents[2] / "examples" / "hello.py"


def test_hello() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(HELLO)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.stdout, result.stderr) == ("greeted Ada Edsger Grace\n", "")
