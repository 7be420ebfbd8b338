"""How the program ends: exceptions become one line and an exit code; knows no command."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import click

from pgq_trio.cli.output import printable
from pgq_trio.concurrency.errors import unwrapped
from pgq_trio.errors import PgqError

#: Key of `ctx.meta`, which a context shares with those of its commands.
DEBUG = "pgq_trio.debug"

SIGINT_EXIT = 130

#: How a process of a fleet ends when another one would fail as well (EX_CONFIG of sysexits.h).
HOPELESS = 78


class Failure(click.ClickException):
    """What was asked for could not be done; one line says why. Exit code 1."""


def describe(exc: BaseException) -> str:
    """Return one line that says what went wrong.

    Errors of this package explain themselves; of others the type is part of the message.
    """
    exc = unwrapped(exc)
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return f"{group.message}: " + "; ".join(describe(inner) for inner in group.exceptions)
    text = one_line(str(exc))
    if isinstance(exc, PgqError) and text:
        return text
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return printable(" ".join(text.split()))


class Program(click.Group):
    """The group of all commands, which decides how the process ends."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises becomes a `Failure`, with --debug after a traceback."""
        try:
            return super().invoke(ctx)
        except Failure as exc:
            if ctx.meta.get(DEBUG) and exc.__cause__ is not None:
                traceback.print_exception(exc.__cause__)
            raise
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as exc:
            if isinstance(exc, BrokenPipeError) and _nobody_reads():
                return None
            if ctx.meta.get(DEBUG):
                traceback.print_exception(exc)
            raise Failure(describe(exc)) from exc

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program; standing alone it exits with 0, 1 or 2, or 128 + a signal's number."""
        _open_what_is_closed()
        _never_fail_to_print()
        try:
            code: object = super().main(
                args=args,
                prog_name=prog_name,
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.ClickException as exc:
            if not standalone_mode:
                raise
            _end(exc.exit_code, f"Error: {one_line(exc.format_message())}{_hint(exc)}")
        except click.Abort as exc:
            if not standalone_mode:
                raise
            interrupted = isinstance(exc.__cause__ or exc.__context__, KeyboardInterrupt)
            _end(*((SIGINT_EXIT, "Interrupted") if interrupted else (1, "Error: aborted")))
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _hint(exc: click.ClickException) -> str:
    ctx = exc.ctx if isinstance(exc, click.UsageError) else None
    return "" if ctx is None else f" (see `{ctx.command_path} --help`)"


def _end(code: int, line: str) -> NoReturn:
    click.echo(line, err=True)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Have output that the caller has closed go nowhere.

    Its descriptors must not be free: the next file or socket would get them, and what others
    print would go there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _nobody_reads() -> bool:
    """Whether the reader of standard output has gone, as `head` does; nothing fails then.

    The pipe itself is asked: the error may come from another one, and Python's buffers may have
    dropped what they could not write.
    """
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    pipe = select.poll()
    pipe.register(output, select.POLLOUT)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in pipe.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)  # where what is left goes at the end of the interpreter
    os.close(nowhere)
    return True


def _never_fail_to_print() -> None:
    """Have characters that the terminal's encoding lacks escaped, not raised as errors."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
