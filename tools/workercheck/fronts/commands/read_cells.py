"""The code cells of a page as `workercheck.lint` takes them: each line with that of the file."""

from __future__ import annotations

from pathlib import Path

from workercheck.fronts.commands import read_page
from workercheck.fronts.commands.read_page import NoNotebookError
from workercheck.lint.cells import Code
from workercheck.run import reading
from workercheck.run.code_cells import begins_of, numbers_of
from workercheck.run.page import Cell
from workercheck.run.reading import PageError

__all__ = ["NoNotebookError", "PageError", "read"]


def read(path: Path, text: str) -> list[Code]:
    """Return the code cells of a page, none where nobody executes it.

    Raises
    ------
    NoNotebookError
        If it has no header of a notebook.
    PageError
        If it cannot be read as a notebook.
    """
    notebook = read_page.notebook_of(path, text)
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    settings = notebook.metadata.get(read_page.SETTINGS, {})
    if language != "python" or settings.get("execution_mode") in ("off", False):
        return []
    cells = reading.cells_of(path, notebook, reading.lines_of(path, text, notebook))
    begins = begins_of(text, len(notebook.cells))
    in_file = text.split("\n")
    is_json = path.suffix == read_page.NOTEBOOK
    return [
        Code(
            line=cell.line,
            tags=cell.tags,
            label=cell.label,
            source=cell.source,
            lines=tuple(_in_json(text, begins, cell) if is_json else _in_text(in_file, cell)),
            index=index,
        )
        for index, cell in enumerate(cells)
    ]


def _in_json(text: str, begins: list[int], cell: Cell) -> list[int]:
    begin, end = begins[cell.position], begins[cell.position + 1]
    return numbers_of(text, begin, end, cell.source.split("\n"))


def _in_text(in_file: list[str], cell: Cell) -> list[int]:
    """Return the line of the file for each line of a cell: that of the cell where none is alike."""
    wanted = [line.strip() for line in cell.source.split("\n")]
    for first in range(cell.line, min(cell.line + 50, len(in_file))):
        if [line.strip() for line in in_file[first : first + len(wanted)]] == wanted:
            return [first + 1 + i for i in range(len(wanted))]
    return [cell.line] * len(wanted)
