"""Pages made from cells, run in real kernels, with nothing of Sphinx around them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import nbformat
from workercheck.evidence import records as ev
from workercheck.judge import rules
from workercheck.judge.finding import Finding
from workercheck.judge.history import History
from workercheck.run.page import Cell, Page
from workercheck.run.side_by_side import Run, run_pages

_E = TypeVar("_E", bound=ev.Event)


def page(folder: Path, *cells: str, name: str = "page", timeout: float | None = 60) -> Page:
    """Make a page of these cells; the first is on line 10, the next on line 20."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    return Page(
        docname=name,
        path=folder / f"{name}.md",
        notebook=notebook,
        cells=tuple(
            Cell(position=i, line=10 * i + 10, tags=frozenset(), source=source)
            for i, source in enumerate(cells)
        ),
        why_not_executed=None,
        force=False,
        in_temp=False,
        timeout=timeout,
        allow_errors=False,
        exclusive=False,
    )


def page_of_tags(tags: list[list[str]]) -> Page:
    """Make a page with a cell for each list of tags; its evidence is made up, too."""
    made = page(Path(), *["1" for _ in tags])
    cells = tuple(
        dc.replace(cell, tags=frozenset(own)) for cell, own in zip(made.cells, tags, strict=True)
    )
    return dc.replace(made, cells=cells)


def never(page: Page, events: list[ev.Event]) -> bool:
    return False


def execute(
    *pages: Page,
    has_failed: Callable[[Page, list[ev.Event]], bool] = never,
    jobs: int | None = None,
) -> list[Run]:
    """Run pages side by side, all at once where *jobs* is None; return the runs by name."""
    runs: list[Run] = []
    run_pages(pages, jobs=jobs or len(pages), has_failed=has_failed, finished=runs.append)
    return sorted(runs, key=lambda run: run.page.docname)


def of(run: Run, cls: type[_E]) -> list[_E]:
    return [event for event in run.events if isinstance(event, cls)]


def findings(run: Run) -> list[Finding]:
    return rules.judge(History(run.page, run.events))


def places(run: Run) -> list[tuple[str, int]]:
    """Return kind and line of each finding."""
    return [(finding.kind, finding.line) for finding in findings(run)]
