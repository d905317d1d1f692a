"""Find the line of a person's own files behind each place of a command's evidence."""

from __future__ import annotations

import dataclasses as dc
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from workercheck.evidence import records as ev
from workercheck.judge import wording
from workercheck.judge.steps import EXPECT_WORKER_ERROR, HandOut, HandOuts, is_failing_example
from workercheck.run.notebooks import NotebookLine, Notebooks

_NO_TAGS: frozenset[str] = frozenset()
_EXPECTING = frozenset({EXPECT_WORKER_ERROR})
_TEXTS = ("<string>", "<stdin>")
"""The file names of programs that the interpreter got as a text."""
_NAMED_FOR = re.compile(r"^<\w+[ :](?P<path>[^:<>]+)(?::(?P<line>\d+))?\b.*>$")
"""The name that a tool gives the text of a file's comment or docstring, with the file's in it."""


def hand_outs(events: Sequence[ev.Event], cwd: Path, notebooks: Notebooks) -> HandOuts:
    """Return the lines that handed work out.

    Parameters
    ----------
    events
        The evidence of a command, whole or so far.
    cwd
        The folder in which it ran, from which paths are told.
    notebooks
        Those that it may have run.
    """
    notebooks.learn(events)
    locator = _Locator(events, cwd, notebooks)
    return HandOuts(
        (e for e in events if isinstance(e, ev.Place)),
        locator.locate,
        [locator.of_test(e) for e in events if isinstance(e, ev.MarkedTest) and e.is_over],
    )


class _Locator:
    def __init__(self, events: Sequence[ev.Event], cwd: Path, notebooks: Notebooks) -> None:
        self.cwd = cwd
        self.notebooks = notebooks
        # A test may watch a command: that is no test of the command's.
        self.around = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        self.programs = {
            e.pid for e in events if isinstance(e, ev.ProcessStarted) and wording.is_program(e)
        }
        self.places = {(e.pid, e.id): e for e in events if isinstance(e, ev.Place)}
        self.started_at = {
            e.child: (e.pid, e.place) for e in events if isinstance(e, ev.ChildStarted)
        }
        self.owned = {e.child for e in events if isinstance(e, ev.ChildStarted) and e.owned}
        self.marked = {e.test for e in events if isinstance(e, ev.MarkedTest)}

    def locate(self, place: ev.Place) -> HandOut | None:
        if not place.file:
            return None
        test = self._test_of(place)
        tags = _EXPECTING if test in self.marked else _NO_TAGS
        place = self._in_file_of_text(self._in_page(place))
        line = self.notebooks.line_of(place)
        if line is not None:
            return self._in_notebook(line, test, tags)
        folder = self.notebooks.folder_of(place)
        if folder is not None:
            number = f"the cell that ran as [{place.number}]" if place.number else "a cell"
            label = f"line {place.line} of {number}"
            source = self._shown(folder)
            return HandOut(line=0, tags=tags, label=label, source=source, docname=test or source)
        source = self._shown(place.file)
        if test is None and _is_failing_example(place.file):
            tags = _EXPECTING
        return HandOut(line=place.line, tags=tags, source=source, docname=test or source)

    def _test_of(self, place: ev.Place) -> str | None:
        """Return the test on whose behalf work was handed out, None where none is known."""
        if place.pid not in self.programs:
            # A worker may live on from an earlier test, whose name it inherited; a process that a
            # test has started itself is that test's.
            starter = self.places.get(self.started_at.get(place.pid, (0, 0)))
            if starter is None or place.pid not in self.owned or starter.pid not in self.programs:
                return None
            place = starter
        return place.test if place.test != self.around else None

    def _in_page(self, place: ev.Place) -> ev.Place:
        """Return the place in a page of code that its directive runs, here or as ``python -c``."""
        text = place.text
        if place.file in _TEXTS:
            starter = self.places.get(self.started_at.get(place.pid, (0, 0)))
            place = starter if starter is not None and starter.file else place
        line = _line_with(text, place.file, place.line) if text else place.line
        return dc.replace(place, line=line)

    def _in_file_of_text(self, place: ev.Place) -> ev.Place:
        """Return the place in the file by which a tool named the text that it runs."""
        match = _NAMED_FOR.match(place.file)
        path = self.cwd / match["path"] if match is not None else None
        if match is None or path is None or not path.is_file():
            return place
        first = int(match["line"] or 1)
        lines = place.whole.splitlines()
        text = lines[place.line - 1].strip() if 0 < place.line <= len(lines) else ""
        line = _line_with(text, str(path), first) if text else first
        return dc.replace(place, file=str(path), line=line, whole="")

    def _in_notebook(self, at: NotebookLine, test: str | None, tags: frozenset[str]) -> HandOut:
        source = self._shown(str(at.path))
        # A test may be for one cell only: the first of them starts the kernel of all.
        is_whole = test is not None and test.endswith(".ipynb")
        alike = f" (or {self._shown(str(at.alike))}, which has the same)" if at.alike else ""
        return HandOut(
            line=at.line,
            tags=tags | at.tags,
            label=f"code cell {at.cell + 1}, line {at.line_of_cell}, {at.text!r}{alike}",
            source=source,
            docname=test if test is not None and is_whole else source,
            cell=at.cell,
        )

    def of_test(self, e: ev.MarkedTest) -> HandOut:
        """Return the line at which a marked test begins."""
        source = self._shown(e.file)
        return HandOut(line=e.line, tags=_EXPECTING, source=source, docname=e.test)

    def _shown(self, file: str) -> str:
        """Return a path as a person would type it."""
        path = Path(file)
        return str(path.relative_to(self.cwd)) if path.is_relative_to(self.cwd) else file


@functools.cache
def _is_failing_example(file: str) -> bool:
    """Tell whether a comment in a file says that a worker must fail in what it runs."""
    try:
        return is_failing_example(Path(file).read_text("utf-8", "replace"))
    except OSError:  # no file, such as the text of python -c
        return False


def _line_with(text: str, file: str, first: int) -> int:
    """Return the line that has a text: the first one from *first* on, else above, else *first*."""
    try:
        lines = Path(file).read_text("utf-8", "replace").splitlines()
    except OSError:  # no file, such as the docstring of a module that is compiled
        return first
    numbers = [number for number, line in enumerate(lines, 1) if text in line]
    return next((number for number in numbers if number >= first), (numbers or [first])[0])
