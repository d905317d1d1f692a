"""A page with code cells, as a run takes it."""

from __future__ import annotations

import dataclasses as dc
import re
from pathlib import Path

import nbformat

from workercheck.evidence import records as ev
from workercheck.judge.steps import Step, step_at

SKIP_EXECUTION = "skip-execution"
_COUNTED_OTHERWISE = re.compile(r"\A\s*%%|^\s*(?:[\w, ]+=\s*)?[!%].*\\$", re.MULTILINE)
"""A magic for a whole cell, or a command that goes on in the next line."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Step):
    """A code cell."""

    position: int
    """0-based position among all cells of the notebook, as nbclient counts."""
    source: str
    evaluates: bool = False
    """Whether it is there for the value of an expression in the text, and is no cell of its own."""


@dc.dataclass(frozen=True, slots=True)
class Page:
    """A page with code cells."""

    docname: str
    path: Path
    notebook: nbformat.NotebookNode
    """As myst-nb reads it, not executed."""
    cells: tuple[Cell, ...]
    """The code cells that have something to run."""
    why_not_executed: str | None
    """By whose word the page is not executed, None where it is."""
    force: bool
    """Whether the page asks to be executed at every build, cached or not."""
    in_temp: bool
    timeout: float | None
    """Seconds a cell may take, None for no limit."""
    allow_errors: bool
    exclusive: bool
    """Whether no other page may run at the same time."""

    @property
    def name(self) -> str:
        """What runs, as a finding calls it."""
        return "page"

    def step_of(self, place: ev.Place) -> int | None:
        """Return None: the run tells which cell handed work out."""
        return None

    def line_within(self, cell: int, line: int, running: int | None) -> str:
        """Return the words for a line of a cell's code, empty for a cell of one line.

        IPython compiles what is below a magic as a cell of its own, under the number of the next
        one, and joins the lines of a long command: then nothing tells which line of the page it is.
        """
        step = step_at(self.cells, cell)
        if step is None or len(step.source.strip().splitlines()) < 2:
            return ""
        near = (step_at(self.cells, index) for index in (cell, cell - 1, running))
        if any(other is not None and _COUNTED_OTHERWISE.search(other.source) for other in near):
            return ""
        return f"line {line} of the cell"

    @property
    def kernel_name(self) -> str:
        """The kernelspec's name."""
        return str(self.notebook.metadata.get("kernelspec", {}).get("name", "python3"))

    def with_timeout(self, seconds: float) -> Page:
        """Return the page with another limit for each cell."""
        return dc.replace(self, timeout=seconds)
