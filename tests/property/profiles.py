"""How long the properties are looked at: `ci` for each commit, `long` for hours.

`PGQ_PROPERTY=long` chooses the other one; `just property --long` sets it. Examples that failed are
kept in `.hypothesis/` and tried first by the next run.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

#: Explaining traces the code line by line, which makes a simulation thirty times as slow.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)

_FACTOR = {"ci": 1, "long": 500}[os.environ.get("PGQ_PROPERTY", "ci")]


def examples(count: int) -> settings:
    """Return settings for about so many examples in CI, and as many more as `long` asks for."""
    return settings(
        max_examples=count * _FACTOR,
        deadline=None,
        phases=_PHASES,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
