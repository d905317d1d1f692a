"""What a person sees while pages run: a line that lives at a terminal, else one for each page."""

from __future__ import annotations

import dataclasses as dc
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from workercheck.report.record import count
from workercheck.run.page import Page
from workercheck.run.side_by_side import Run, Underway

SILENCE = 30.0
"""Seconds without news after which a build says what it is waiting for; then twice as many."""


@dc.dataclass(frozen=True, slots=True)
class Screen:
    """Where a person reads of the progress."""

    write: Callable[[str], object]
    """Writes a text as it is: the end of the line is part of it."""
    is_live: bool
    """Whether a line may be drawn anew."""

    def say(self, text: str) -> None:
        """Write a line."""
        self.write(f"workercheck: {text}\n")


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a line of a stream may be drawn anew."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Progress:
    """The progress of one round of pages.

    Parameters
    ----------
    pages
        What is about to run.
    jobs
        How many at once.
    seconds
        What pages took before, by docname.
    screen
        Where it is shown.
    """

    def __init__(
        self, pages: Sequence[Page], jobs: int, seconds: Mapping[str, float], screen: Screen
    ) -> None:
        self._left = {page.docname for page in pages}
        self._total = len(pages)
        self._jobs = jobs
        self._seconds = seconds
        self._screen = screen
        self._width = 0
        """Of the live line that is on the screen."""
        self._news = time.monotonic()
        self._silence = SILENCE
        screen.say(f"executing {count(self._total, 'page')}, {jobs} at a time")

    def finished(self, run: Run, outcome: str) -> None:
        """Say how a page came out."""
        self._left.discard(run.page.docname)
        self._erase()
        self._screen.say(
            f"[{self._total - len(self._left)}/{self._total}] {run.page.docname}"
            f"  {run.seconds:.1f} s  {outcome}{f'  on {run.machine}' if run.machine else ''}"
        )
        self._news = time.monotonic()
        self._silence = SILENCE

    def collided(self, page: Page, files: Mapping[str, Sequence[str]]) -> None:
        """Say that a page runs again, because another one wrote a file of it meanwhile."""
        self._erase()
        for file, others in files.items():
            self._screen.say(
                f"{page.docname} runs again alone: {' and '.join(others)}, which ran at the same "
                f"time, may have changed {file} too. Give each page a file of its own, or give "
                "one of them the header workercheck: {exclusive: true}"
            )

    def underway(self, running: Sequence[Underway]) -> None:
        """Say what runs, on the live line; without a terminal only after a long silence."""
        now = time.monotonic()
        pages = ", ".join(_describe(one, now) for one in running)
        if self._screen.is_live and pages:
            self._draw(
                f"[{self._total - len(self._left)}/{self._total}] {self._rest(running, now)}{pages}"
            )
        elif not self._screen.is_live and now - self._news >= self._silence:
            self._news = now
            self._silence *= 2
            self._screen.say(f"waiting for {pages or 'the first page'}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._erase()

    def _rest(self, running: Sequence[Underway], now: float) -> str:
        """Estimate how long the rest takes; nothing where a page has never been timed."""
        ran = {one.page.docname: now - one.started for one in running}
        try:
            rest = [max(0.0, self._seconds[name] - ran.get(name, 0.0)) for name in self._left]
        except KeyError:
            return ""
        return f"{_clock(max(sum(rest) / self._jobs, *rest, 1.0))} to go: "

    def _draw(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        if len(text) > columns:
            text = text[: columns - 3] + "..."
        self._screen.write("\r" + text.ljust(min(self._width, columns)))
        self._width = len(text)

    def _erase(self) -> None:
        if self._width:
            self._screen.write("\r" + " " * self._width + "\r")
            self._width = 0


def _describe(one: Underway, now: float) -> str:
    if one.cell is None:
        return f"{one.page.docname} {_clock(now - one.started)}"
    return f"{one.page.docname}:{one.cell.line} {_clock(now - one.cell_started)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
