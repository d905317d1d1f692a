"""Find the line of a person's own files behind each place of a command's evidence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from workercheck.evidence import records as ev
from workercheck.judge import wording
from workercheck.judge.steps import EXPECT_WORKER_ERROR, HandOut, HandOuts

_NO_TAGS: frozenset[str] = frozenset()
_EXPECTING = frozenset({EXPECT_WORKER_ERROR})


def hand_outs(events: Sequence[ev.Event], cwd: Path) -> HandOuts:
    """Return the lines that handed work out.

    Parameters
    ----------
    events
        The evidence of a command, whole or so far.
    cwd
        The folder in which it ran, from which paths are told.
    """
    locator = _Locator(events, cwd)
    return HandOuts(
        (e for e in events if isinstance(e, ev.Place)),
        locator.locate,
        [locator.of_test(e) for e in events if isinstance(e, ev.MarkedTest) and e.is_over],
    )


class _Locator:
    def __init__(self, events: Sequence[ev.Event], cwd: Path) -> None:
        self.cwd = cwd
        # A test may watch a command: that is no test of the command's.
        self.around = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        self.programs = {
            e.pid for e in events if isinstance(e, ev.ProcessStarted) and wording.is_program(e)
        }
        self.marked = {e.test for e in events if isinstance(e, ev.MarkedTest)}

    def locate(self, place: ev.Place) -> HandOut | None:
        if not place.file:
            return None
        source = self._shown(place.file)
        # A worker may live on from an earlier test, whose name it inherited.
        test = place.test if place.pid in self.programs and place.test != self.around else None
        tags = _EXPECTING if test in self.marked else _NO_TAGS
        return HandOut(line=place.line, tags=tags, source=source, docname=test or source)

    def of_test(self, e: ev.MarkedTest) -> HandOut:
        """Return the line at which a marked test begins."""
        source = self._shown(e.file)
        return HandOut(line=e.line, tags=_EXPECTING, source=source, docname=e.test)

    def _shown(self, file: str) -> str:
        """Return a path as a person would type it."""
        path = Path(file)
        return str(path.relative_to(self.cwd)) if path.is_relative_to(self.cwd) else file
