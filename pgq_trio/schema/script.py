"""Statements as one text for psql or a tool for migrations; knows no object of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgq_trio.model.migration import Migration

__all__ = ["plan_script", "script"]


def script(statements: Iterable[str], *remarks: str) -> str:
    """Return statements, each with its semicolon, under comment lines."""
    parts = [*_comments(remarks), *(f"{statement};" for statement in statements)]
    return "\n\n".join(parts)


def plan_script(plan: Sequence[Migration]) -> str:
    """Return the steps of an upgrade as SQL, each under a comment with its number and name."""
    if not plan:
        return "-- nothing to do"
    return "\n\n".join(script(step.statements, f"{step.number}: {step.name}") for step in plan)


def _comments(remarks: Sequence[str]) -> list[str]:
    return ["\n".join(f"-- {remark}" for remark in remarks)] if remarks else []
