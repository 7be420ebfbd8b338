"""Statements as one text for psql or a tool for migrations; knows no object of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgq_trio.model.migration import Migration

__all__ = ["plan_script", "script"]


def script(statements: Iterable[str], *remarks: str) -> str:
    """Return statements, each with its semicolon, under comment lines.

    What is selected for its effect, such as a lock, is performed in a block: psql would print rows.
    """
    parts = [*_comments(remarks), *(f"{_silent(statement)};" for statement in statements)]
    return "\n\n".join(parts)


def plan_script(plan: Sequence[Migration]) -> str:
    """Return the steps of an upgrade as SQL, each under a comment with its number and name."""
    if not plan:
        return "-- nothing to do"
    return "\n\n".join(script(step.statements, f"{step.number}: {step.name}") for step in plan)


def _silent(statement: str) -> str:
    if not statement.startswith("SELECT "):
        return statement
    return f"DO $do$ BEGIN PERFORM {statement.removeprefix('SELECT ')}; END $do$"


def _comments(remarks: Sequence[str]) -> list[str]:
    return ["\n".join(f"-- {remark}" for remark in remarks)] if remarks else []
