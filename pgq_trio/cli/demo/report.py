"""The tables at the end of the demo: pure, from counts to what rich can draw."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pgq_trio.cli.demo.files import Sums
from pgq_trio.cli.demo.names import ADD, FILE
from pgq_trio.cli.demo.watch import Watch
from pgq_trio.cli.output import table


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def speed_table(watch: Watch, seconds: float, probes: Sequence[float]) -> Table:
    """Return how fast it was."""
    files, added = watch.ended[FILE], watch.ended[ADD]
    rows = [
        ("jobs", f"{files + added:,}", f"{files:,} files hashed, {added:,} results added"),
        ("jobs/s", f"{(files + added) / seconds:,.0f}", f"in {seconds:.1f} s"),
        ("retries", f"{watch.retries:,}", "runs that failed and were queued again"),
    ]
    if watch.broken:
        rows.append(("failed jobs", f"{watch.broken:,}", "ended without success"))
    rows += _waits(
        "enqueue→start, all files at once",
        watch.waits,
        f"{len(watch.waits):,} jobs, most of it is waiting for their turn",
    )
    rows += _waits("enqueue→start, idle worker", probes, f"{len(probes)} jobs, one after another")
    return table("speed", ["measure", "value#", "what it says"], rows)


def _waits(what: str, seconds: Sequence[float], note: str) -> list[tuple[str, str, str]]:
    if not seconds:
        return []
    return [
        (f"{what}, p{share:.0%}"[:-1], f"{percentile(seconds, share) * 1000:,.1f} ms", note)
        for share in (0.5, 0.99)
    ]


def totals_table(shared: Sums, independent: Sums) -> Table:
    """Return what the jobs added up beside what was counted without them."""
    rows: list[tuple[str, str, str, str]] = []
    for name in ("files", "unreadable", "lines", "bytes"):
        ours, theirs = getattr(shared, name), getattr(independent, name)
        if name != "unreadable" or ours or theirs:
            rows.append((name, f"{ours:,}", f"{theirs:,}", _verdict(ours == theirs)))
    same = shared.digest == independent.digest
    rows.append(("sha256 of all", _hex(shared), _hex(independent), _verdict(same)))
    return table("totals", ["sum of", "shared resources#", "independent count#", "verdict"], rows)


def _verdict(equal: bool) -> str:
    return "equal" if equal else "NOT EQUAL"


def _hex(sums: Sums) -> str:
    return f"{sums.digest:064x}"[:16]
