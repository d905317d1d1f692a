"""What a page's text says of its code: which cells, on which lines, and how they are to run.

Whoever makes a notebook of a page, with Sphinx or without, asks here for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml  # type: ignore[import-untyped]
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from workercheck.run.code_cells import key_of_each
from workercheck.run.page import Cell, Page

KEY = "workercheck"
"""The key of a page's header, and of a cell's metadata, that is ours."""

HEADER = re.compile(r"---\s*\n(.*?)\n(?:---|\.\.\.)[^\n]*", re.DOTALL)
"""The header of a text, with the lines around it."""


class PageError(Exception):
    """A page cannot be read as a notebook.

    Parameters
    ----------
    message
        Why, without the file and the line.
    line
        1-based line of the source.
    hint
        The way out, a sentence.
    """

    def __init__(self, message: str, line: int = 1, hint: str = "Fix the page.") -> None:
        super().__init__(message)
        self.line = line
        self.hint = hint


class NoKernelError(PageError):
    """The kernel that a page names is not there."""


def text_of(name: str, path: Path, encoding: str, way_out: str) -> str:
    """Return what is in a page's file.

    Parameters
    ----------
    name
        What the page is called.
    path
        The file.
    encoding
        How it is to be written.
    way_out
        What to do where it is written otherwise, a sentence.

    Raises
    ------
    PageError
        If it cannot be read, or its name cannot be written.
    """
    try:
        name.encode()
        return path.read_text(encoding=encoding)
    except UnicodeEncodeError:
        raise PageError("the name of the file is not UTF-8", 0, "Rename the file.") from None
    except UnicodeDecodeError as exc:
        form = encoding.removesuffix("-sig")
        raise PageError(f"the file is not {form} ({exc.reason})", 1, way_out) from exc
    except OSError as exc:
        raise PageError(str(exc.strerror), 0, "Allow reading the file.") from exc


def check_kernel(page: Page, text: str) -> None:
    """Make sure that a page's kernel is there.

    Raises
    ------
    NoKernelError
        If it is not, with the line of the header that names it.
    """
    manager = KernelSpecManager()
    try:
        manager.get_kernel_spec(page.kernel_name)
    except NoSuchKernel:
        there = ", ".join(sorted(manager.find_kernel_specs())) or "none"
        raise NoKernelError(
            f"the kernel {page.kernel_name!r} is not installed here",
            line_of(text, "kernelspec", "name"),
            "Install the kernel (for Python: pip install ipykernel), or name an installed one: "
            f"{there}.",
        ) from None


def evaluation_of(cell: nbformat.NotebookNode) -> str | None:
    """Return the expression whose value a cell is there for, None for a cell of the page's own."""
    expression: str | None = cell.metadata.get(KEY, {}).get("evaluates")
    return expression


def unreadable(text: str, exc: Exception) -> PageError:
    """Say what keeps a text from being a notebook, and on which line."""
    if isinstance(exc, nbformat.ValidationError) and "tags" in exc.absolute_path:
        tags = re.search(rf"^:?tags:.*{re.escape(str(exc.instance))}", text, re.MULTILINE)
        return PageError(
            f"the tags of a cell are {exc.instance!r}, which is not a list",
            text.count("\n", 0, tags.start()) + 1 if tags else 1,
            "Write the tags like :tags: [hide-input].",
        )
    place = re.search(r"\bat line (\d+)", str(exc))
    return PageError(
        f"the page cannot be read as a notebook ({exc})", int(place[1]) if place else 1
    )


def header_of(text: str) -> Any:
    """Return what the header of a text says, an empty mapping without one.

    Raises
    ------
    PageError
        If it is no YAML, with the line.
    """
    match = HEADER.match(text)
    try:
        return (yaml.safe_load(match[1]) if match else None) or {}
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        problem = getattr(exc, "problem", None) or exc
        raise PageError(
            f"the page's header is not YAML ({problem})",
            mark.line + 2 if mark else 1,
            "Fix the header.",
        ) from exc


def front_matter(text: str) -> Any:
    """Return what the header of a text says, as far as it can be read."""
    try:
        return header_of(text)
    except PageError:
        return {}


def check_header(text: str, header: Any, settings: str) -> None:
    """Refuse a header whose parts are not what myst-nb takes them for.

    Raises
    ------
    PageError
        With the line of the part.
    """
    if not isinstance(header, dict):
        raise PageError(f"the page's header is {header!r}, which is not a mapping")
    for key, example in (
        ("kernelspec", "kernelspec: {name: python3}"),
        ("jupytext", "jupytext: {text_representation: {format_name: myst}}"),
        (settings, f"{settings}: {{execution_timeout: 60}}"),
    ):
        if key in header and not isinstance(header[key], dict):
            raise PageError(
                f"the page's {key!r} header is {header[key]!r}, which is not a mapping",
                line_of(text, key),
                f"Write the header like {example}.",
            )


def why_not_executed(mode: str, notebook: nbformat.NotebookNode, *, in_header: bool) -> str | None:
    """Say by whose word a page is not executed, None where it is.

    Parameters
    ----------
    mode
        The execution mode, in the words of myst-nb.
    notebook
        The page's notebook.
    in_header
        Whether the page's own header says so.
    """
    if mode == "off":
        return (
            "as its header says (execution_mode is 'off')"
            if in_header
            else "as conf.py says (nb_execution_mode is 'off')"
        )
    stored = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    if mode == "auto" and all(stored):
        return "as its outputs are stored in the file, and its execution mode is 'auto'"
    return None


def is_exclusive(text: str, header: Any) -> bool:
    """Read the one word that a page's header may say to us."""
    way_out = "The only setting is: workercheck: {exclusive: true}."
    if not isinstance(header, dict):
        raise PageError(
            f"the page's {KEY!r} header is {header!r}, which is not a mapping",
            line_of(text, KEY),
            way_out,
        )
    for name, value in header.items():
        if name != "exclusive":
            raise PageError(
                f"the page's {KEY!r} header has no setting {name!r}",
                line_of(text, KEY, str(name)),
                way_out,
            )
        if not isinstance(value, bool):
            raise PageError(
                f"the page's {KEY!r} header sets {name} to {value!r}, neither true nor false",
                line_of(text, KEY, name),
                way_out,
            )
    return bool(header.get("exclusive", False))


def cells_of(path: Path, notebook: nbformat.NotebookNode, lines: Sequence[int]) -> tuple[Cell, ...]:
    """Return the code cells that have something to run."""
    is_notebook_file = path.suffix == ".ipynb"
    found: list[Cell] = []
    number = 0
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        evaluates = evaluation_of(cell) is not None
        number += not evaluates
        first = cell.source.strip().splitlines()[0]
        found.append(
            Cell(
                position=position,
                line=lines[position],
                tags=frozenset(cell.metadata.get("tags", ())),
                source=cell.source,
                evaluates=evaluates,
                label=f"code cell {number}, {first!r}" if is_notebook_file else "",
            )
        )
    return tuple(found)


def lines_of(path: Path, text: str, notebook: nbformat.NotebookNode) -> list[int]:
    """Return the 1-based line on which each cell begins."""
    count = len(notebook.cells)
    if (lines := notebook.metadata.get("source_map")) and len(lines) == count:
        return [
            line + (cell.cell_type == "markdown")  # for which myst-nb counts from 0
            for line, cell in zip(lines, notebook.cells, strict=True)
        ]
    if path.suffix == ".ipynb" and (keys := key_of_each(text, count)) is not None:
        return [text.count("\n", 0, key) + 1 for key in keys]
    return _lines_by_content(text, notebook)


def _lines_by_content(text: str, notebook: nbformat.NotebookNode) -> list[int]:
    """Find each cell where its first lines stand in a file of another format, in order."""
    source = [line.strip() for line in text.splitlines()]
    found = []
    begin = 0
    for cell in notebook.cells:
        own = [line.strip() for line in cell.source.splitlines() if len(line.strip()) > 1]
        for line in own:
            if line in source[begin:]:
                begin = source.index(line, begin) + 1
                break
        found.append(max(begin, 1))
    return found


def line_of(text: str, *keys: str) -> int:
    """Return the line on which a key of the header stands, within another one or by itself."""
    position = 0
    for key in keys:
        match = re.compile(rf"""(?<![\w-])["']?{re.escape(key)}["']?\s*:""").search(text, position)
        if match is None:
            break
        position = match.start()
    return text.count("\n", 0, position) + 1
