"""A page's code cells, with their source lines and tags, read without Sphinx.

jupytext reads MyST pages as myst-nb does, but for what a header may leave out.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupytext import myst  # type: ignore[import-untyped]

from workercheck.run import reading
from workercheck.run.page import Page
from workercheck.run.reading import PageError

NOTEBOOK, MARKDOWN = ".ipynb", ".md"

SETTINGS = "mystnb"
"""The key of a page's header that says how it is executed, as myst-nb reads it."""

_DEFAULTS: Mapping[str, Any] = {
    "execution_mode": "cache",  # whoever names a page wants it executed, stored outputs or not
    "execution_timeout": 30,
    "execution_in_temp": False,
    "execution_allow_errors": False,
}
_MODES = ("auto", "cache", "force", "inline", "off")

_QUOTES = {"code", "code-block", "sourcecode", "literalinclude", "raw-cell", "math", "mermaid"}
"""The directives whose content nobody reads as Markdown."""


def read(docname: str, path: Path, text: str) -> Page:
    """Read a page.

    Parameters
    ----------
    docname, path, text
        What the page is called, its file, and what is in it.

    Raises
    ------
    PageError
        If it is no notebook, has nothing to run or names no kernel, or if its header says what
        cannot be.
    """
    notebook = notebook_of(path, text)
    settings = _settings(text, notebook.metadata.get(SETTINGS, {}))
    exclusive = reading.is_exclusive(text, notebook.metadata.get(reading.KEY, {}))
    cells = reading.cells_of(path, notebook, reading.lines_of(path, text, notebook))
    if not cells:
        raise PageError("the page has no code cell to run", 0, "Leave the page out.")
    if not notebook.metadata.get("kernelspec", {}).get("name"):
        raise PageError(
            "the page names no kernel",
            1,
            "Choose a kernel in Jupyter and save the notebook."
            if path.suffix == NOTEBOOK
            else "Add a kernel to its header: kernelspec: {name: python3}.",
        )
    mode, timeout = settings["execution_mode"], settings["execution_timeout"]
    return Page(
        docname=docname,
        path=path,
        notebook=notebook,
        cells=cells,
        why_not_executed=reading.why_not_executed(mode, notebook, in_header=True),
        force=mode == "force",
        in_temp=settings["execution_in_temp"],
        timeout=timeout if timeout > 0 else None,
        allow_errors=settings["execution_allow_errors"],
        exclusive=exclusive,
    )


class NoNotebookError(PageError):
    """A page of Markdown does not say that it is a notebook."""


def notebook_of(path: Path, text: str) -> nbformat.NotebookNode:
    """Read a page as a notebook.

    Raises
    ------
    PageError
        If it is none, or if its header says what cannot be.
    """
    try:
        notebook = _notebook(path, text)
    except PageError:
        raise
    except Exception as exc:
        reading.check_header(text, reading.front_matter(text), SETTINGS)
        found = reading.unreadable(text, exc)
        raise PageError(textwrap.shorten(str(found), 300), found.line, found.hint) from exc
    reading.check_header(text, notebook.metadata, SETTINGS)
    return notebook


def unconverted_cells(page: Page, text: str) -> Iterator[int]:
    """Yield the line of each ``code-cell`` that is no cell: nobody executes it."""
    if page.path.suffix == MARKDOWN:
        yield from _nested(_without_header(text))
        return
    lines = reading.lines_of(page.path, text, page.notebook)
    for cell, line in zip(page.notebook.cells, lines, strict=True):
        if cell.cell_type == "markdown" and any(_nested(cell.source, is_nested=True)):
            yield line


def _notebook(path: Path, text: str) -> nbformat.NotebookNode:
    """Make a notebook of a text; an exception of any kind if it is none."""
    if path.suffix == NOTEBOOK:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells without a number: they need none
            as_file: nbformat.NotebookNode = nbformat.reads(text, as_version=4)
            return as_file
    # jupytext demands more of a header than myst-nb, such as a kernel's display name.
    notebook: nbformat.NotebookNode = myst.myst_to_notebook(
        _without_header(text), add_source_map=True
    )
    header = reading.header_of(text)
    reading.check_header(text, header, SETTINGS)
    form = header.get("jupytext", {}).get("text_representation", {})
    if header.get("file_format") != "mystnb" and form.get("format_name") != "myst":
        raise NoNotebookError(
            "the page is no notebook: its header does not say so",
            1,
            "Leave the page out, or begin it with a header that says file_format: mystnb and "
            "kernelspec: {name: python3}.",
        )
    notebook.metadata.update(nbformat.from_dict(header))
    for cell in notebook.cells:
        if "load" in cell.metadata:
            cell.source = _loaded(path, text, cell.metadata.load)
    return notebook


def _without_header(text: str) -> str:
    """Return a text with its header left blank, so that each line keeps its number."""
    match = reading.HEADER.match(text)
    return "\n" * match[0].count("\n") + text[match.end() :] if match else text


def _loaded(path: Path, text: str, name: str) -> str:
    """Return what a cell loads from a file."""
    try:
        return (path.parent / name).read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise PageError(
            f"a cell loads {name}, which cannot be read ({exc})", reading.line_of(text, "load")
        ) from exc


def _settings(text: str, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a page is to be executed.

    Raises
    ------
    PageError
        If its header says what cannot be.
    """
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "execution_mode": (lambda value: value in _MODES, f"one of {', '.join(_MODES)}"),
        "execution_timeout": (lambda value: type(value) is int, "a whole number of seconds"),
        "execution_in_temp": (lambda value: type(value) is bool, "true or false"),
        "execution_allow_errors": (lambda value: type(value) is bool, "true or false"),
    }
    for name, (is_right, allowed) in checks.items():
        if name in header and not is_right(header[name]):
            raise PageError(
                f"the page's {SETTINGS!r} header is not valid ({name} is {header[name]!r})",
                reading.line_of(text, SETTINGS, name),
                f"{name} must be {allowed}; YAML takes the words on, off, yes and no for true and "
                "false unless they are quoted.",
            )
    return {name: header.get(name, default) for name, default in _DEFAULTS.items()}


def _nested(text: str, before: int = 0, *, is_nested: bool = False) -> Iterator[int]:
    """Yield the line of each ``code-cell`` within a list, a quotation or another directive.

    Parameters
    ----------
    text
        Markdown.
    before
        How many lines of the page are before it.
    is_nested
        Whether it is the content of something.
    """
    for token in myst.get_parser().parse(text):
        name = re.match(r"\{([\w:.-]+)\}", token.info)
        if token.type != "fence" or name is None or token.map is None:
            continue
        line = before + token.map[0] + 1
        if name[1] == "code-cell":
            if is_nested or token.level:
                yield line
        elif name[1] not in _QUOTES:
            yield from _nested(token.content, line, is_nested=True)
