"""Asking before something that cannot be taken back; knows no queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgq_trio.cli.program import Failure

C = TypeVar("C", bound=Callable[..., Any])


def yes_option(command: C) -> C:
    """Give a command the flag --yes, for `confirm`."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, *, yes: bool, done: str) -> None:
    """Ask on standard error; return if the answer is yes, or if `yes` says not to ask.

    Args:
        question: what is to be done.
        yes: that of `yes_option`.
        done: the participle of what is not done now, such as "dropped".

    Raises:
        Failure: the answer is no, or there is none.
    """
    try:
        sure = yes or click.confirm(question, err=True)
    except click.Abort as exc:
        if isinstance(exc.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)  # ends the line of the question
        raise Failure(f"nobody confirmed, so nothing was {done}; --yes does not ask") from exc
    if not sure:
        raise Failure(f"not confirmed, so nothing was {done}")
