"""Runs the properties: `python -m tests.property [--long] [--hours N] [PYTEST ARGUMENTS]`.

Two processes at a time. Without `--long` it is one run with the examples of CI. With it, one round
follows the other, each with new examples, until the hours are over, somebody presses Ctrl-C, or a
property fails, which says how to pin what it found.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.property.profiles import DATABASE, PROFILE, directory

HERE = "tests/property"

#: The variable that says how many hours it goes on, where the command line does not.
HOURS = "PGQ_PROPERTY_HOURS"

#: What pytest returns when a test failed, the second where processes had to be stopped then.
_FAILED = (1, 2)

_PIN = """
Found in round {round}, after {minutes:.0f} minutes. The next run with --long tries it first: it is
kept in {directory} ({variable} names another place).
Once it is mended, pin what "Failing test case" shows, so that CI tries it for ever:

    @example(schedule=(0, 1), ...)  # what went wrong, in a few words
    @given(schedule=..., ...)
"""


def run(arguments: Sequence[str], profile: str) -> int | None:
    """Run pytest once over the properties, or over those that the arguments name.

    Returns:
        its exit code; None when somebody stopped it.
    """
    stopped = False
    named = any(Path(argument.split("::")[0]).exists() for argument in arguments)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup"]
        + ([] if named else [HERE])
        + [*arguments],
        env=os.environ | {PROFILE: profile},
        # A group of its own, so that all of it hears a Ctrl-C once, wherever that comes from.
        process_group=0,
    )
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            stopped = True
            os.killpg(process.pid, signal.SIGINT)
        else:
            return None if stopped else code


def run_long(arguments: Sequence[str], hours: float) -> int:
    """Run round after round; return the exit code of the last one."""
    began = time.monotonic()
    number, minutes = 0, 0.0
    while minutes < 60 * hours:
        number += 1
        print(f"--- round {number}, {minutes:.0f} minutes so far", flush=True)
        code = run(["-x", *arguments], "long")
        minutes = (time.monotonic() - began) / 60
        if code is None:
            print(f"stopped in round {number}, after {minutes:.0f} minutes")
            return 0
        if code in _FAILED:
            print(_PIN.format(
                round=number, minutes=minutes, directory=directory(), variable=DATABASE
            ))  # fmt: skip
        if code != 0:
            return code
    print(f"all properties held in {number} rounds, {minutes:.0f} minutes")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run them once, or for hours."""
    parser = argparse.ArgumentParser(
        prog="property", description=main.__doc__, epilog="Everything else goes to pytest.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--long", action="store_true", help="new examples, round after round")
    parser.add_argument(
        "--hours", type=float, default=float(os.environ.get(HOURS) or 8), metavar="N",
        help=f"after which no new round begins; {HOURS} says it as well; 8 by default",
    )  # fmt: skip
    options, rest = parser.parse_known_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had it ignored
        signal.signal(number, signal.default_int_handler)
    if options.long:
        return run_long(rest, options.hours)
    code = run(rest, "ci")
    return 1 if code is None else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
