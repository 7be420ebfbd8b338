"""How long the properties are looked at: `ci` for each commit, `long` for hours.

`PGQ_PROPERTY=long` chooses the other one; `just property --long` sets it, round after round.

- `ci` draws the same examples each time. A commit is red because of what is in it, a fault that
  was planted is found each time or never, and to see a failure again is to run the test again.
  What it gives up, new faults, is what `long` is for.
- `long` draws new ones each time. What failed is kept in a directory, the checkout's `.hypothesis/`
  unless PGQ_PROPERTY_DATABASE names another one, and is tried first by the next run. Once mended it
  is pinned by an `@example` in the test, so that `ci` tries it for ever.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase

#: The variable that chooses, and the one that says where examples that failed are kept.
PROFILE = "PGQ_PROPERTY"
DATABASE = "PGQ_PROPERTY_DATABASE"

#: Explaining traces the code line by line, which makes a simulation thirty times as slow.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)

#: How many times as many examples one run tries.
_FACTORS = {"ci": 1, "long": 5}


def profile() -> str:
    """Return the profile that the environment asks for.

    Raises:
        ValueError: there is no such one.
    """
    name = os.environ.get(PROFILE, "ci")
    if name not in _FACTORS:
        raise ValueError(f"{PROFILE} is one of {', '.join(_FACTORS)}, got {name!r}")
    return name


def directory() -> Path:
    """Return where examples that failed are kept."""
    default = Path(__file__).parents[2] / ".hypothesis" / "examples"
    return Path(os.environ.get(DATABASE) or default)


def examples(count: int) -> settings:
    """Return settings for about so many examples in CI, and as many more as `long` asks for."""
    fresh = profile() == "long"
    return settings(
        max_examples=count * _FACTORS[profile()],
        # Stated both: Hypothesis has defaults of its own where the variable CI is set.
        derandomize=not fresh,
        database=DirectoryBasedExampleDatabase(directory()) if fresh else None,
        deadline=None,
        phases=_PHASES,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
