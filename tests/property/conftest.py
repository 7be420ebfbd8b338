"""Plants the fault that `just mutants` asks for; counts examples for `just property --rates`."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import pytest

from pgq_trio.testing import Simulation
from tests.property.mutants import plant_from_environment, replace

plant_from_environment()

#: What a report of a test carries to the process that prints the table.
_RATE = "pgq_rate"

_EXAMPLES = re.compile(r"- (\d+) passing, (\d+) failing")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--rates`."""
    parser.addoption(
        "--rates", action="store_true", help="print examples per second of each property"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Count the runs of simulations, where that is asked for."""
    if config.getoption("--rates"):
        config.pluginmanager.register(_Rates(), "pgq-rates")


class _Rates:
    """Counts what each test tries; examples are Hypothesis', runs those of simulations."""

    def __init__(self) -> None:
        self._runs = 0
        original = Simulation.run

        async def run(simulation: Simulation[Any], *args: Any, **options: Any) -> None:
            self._runs += 1
            await original(simulation, *args, **options)

        replace(Simulation, "run", run)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the counts to the report of the test itself."""
        report = yield
        if call.when == "call":
            found = _EXAMPLES.findall(getattr(item, "hypothesis_statistics", ""))
            tried = sum(int(number) for numbers in found for number in numbers)
            report.user_properties.append((_RATE, (tried, self._runs)))
        self._runs = 0
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, the slowest first."""
        rows: list[tuple[float, str]] = []
        for report in terminalreporter.getreports("passed"):
            for name, counts in getattr(report, "user_properties", ()):
                if name == _RATE:
                    rows.append((report.duration, _row(report, *counts)))
        terminalreporter.section("examples per second")
        terminalreporter.write_line(
            f"{'examples':>8} {'runs':>7} {'seconds':>8} {'per s':>7}  property"
        )
        for _, row in sorted(rows, reverse=True):
            terminalreporter.write_line(row)


def _row(report: pytest.TestReport, tried: int, runs: int) -> str:
    """What is counted is runs where examples have several, and examples where nothing simulates."""
    rate = max(tried, runs) / max(report.duration, 1e-6)
    place = report.nodeid.removeprefix("tests/property/")
    return f"{tried or '':>8} {runs or '':>7} {report.duration:8.2f} {rate:7.0f}  {place}"
