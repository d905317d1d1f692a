"""What a person sees while pages run: a line that lives at a terminal, else one for each page."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence

from sphinx.util import logging

from workercheck.run.page import Page
from workercheck.run.side_by_side import Run, Underway

SILENCE = 30.0
"""Seconds without news after which a build says what it is waiting for; then twice as many."""

LOGGER = logging.getLogger(__name__)


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
    verbosity
        Sphinx's: with ``-v`` there is no live line, because other messages would cut it.
    """

    def __init__(
        self, pages: Sequence[Page], jobs: int, seconds: Mapping[str, float], verbosity: int
    ) -> None:
        self._left = {page.docname for page in pages}
        self._total = len(pages)
        self._jobs = jobs
        self._seconds = seconds
        self._live = (
            verbosity < 1 and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        )
        self._width = 0
        """Of the live line that is on the screen."""
        self._news = time.monotonic()
        self._silence = SILENCE
        LOGGER.info("workercheck: executing %d pages, %d at a time", self._total, jobs)

    def finished(self, run: Run, outcome: str) -> None:
        """Say how a page came out."""
        self._left.discard(run.page.docname)
        self._erase()
        LOGGER.info(
            "workercheck: [%d/%d] %s  %.1f s  %s",
            self._total - len(self._left),
            self._total,
            run.page.docname,
            run.seconds,
            outcome,
        )
        self._news = time.monotonic()
        self._silence = SILENCE

    def underway(self, running: Sequence[Underway]) -> None:
        """Say what runs, on the live line; without a terminal only after a long silence."""
        now = time.monotonic()
        pages = ", ".join(_describe(one, now) for one in running)
        if self._live and pages:
            self._draw(
                f"[{self._total - len(self._left)}/{self._total}] {self._rest(running, now)}{pages}"
            )
        elif not self._live and now - self._news >= self._silence:
            self._news = now
            self._silence *= 2
            LOGGER.info("workercheck: waiting for %s", pages or "the first page")

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
        LOGGER.info("\r%s", text.ljust(min(self._width, columns)), nonl=True)
        self._width = len(text)

    def _erase(self) -> None:
        if self._width:
            LOGGER.info("\r%s\r", " " * self._width, nonl=True)
            self._width = 0


def _describe(one: Underway, now: float) -> str:
    if one.cell is None:
        return f"{one.page.docname} {_clock(now - one.started)}"
    return f"{one.page.docname}:{one.cell.line} {_clock(now - one.cell_started)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
