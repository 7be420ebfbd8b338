"""What the demo shows while it runs: lines, and a bar if there is a terminal to draw it on."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pgq_trio.cli.output import console

#: Seconds between two drawings of the bar.
REDRAW = 0.1

#: Without a terminal, a line is printed each time so much more of the work is done, in percent.
STEP = 10


class Screen:
    """Lines above a live progress bar; without a terminal lines only.

    The bar is drawn by the demo's own task: rich would start a thread for it.
    """

    def __init__(self) -> None:
        self._console = console()
        self._bar = Progress(
            TextColumn("files"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} jobs/s"),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("files", total=None, speed="-")
        self._printed = 0

    def __enter__(self) -> Self:
        """Let the bar appear."""
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False, soft_wrap=True)

    def show(self, *renderables: object) -> None:
        """Print what rich can draw."""
        for renderable in renderables:
            self._console.print(renderable)

    def progress(self, done: int, total: int | None, speed: float) -> None:
        """Say how many files of how many are done; None while that is not known."""
        text = f"{speed:,.0f}"
        self._bar.update(self._task, completed=done, total=total, speed=text)
        percent = 100 * done // total if total else 0
        if not self._console.is_terminal and percent >= self._printed + STEP:
            self._printed = percent - percent % STEP
            self.say(f"{percent:3} %  {done:,} of {total:,} files, {text} jobs/s")

    async def keep_drawing(self) -> None:
        """Draw the bar again and again, until cancelled."""
        while True:
            self._bar.refresh()
            await anyio.sleep(REDRAW)
