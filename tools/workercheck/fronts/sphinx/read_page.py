"""A page's code cells, with their source lines and tags, read with myst-nb's own reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
import yaml  # type: ignore[import-untyped]
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from myst_nb.core.config import NbParserConfig
from myst_nb.core.nb_to_tokens import nb_node_to_dict
from myst_nb.core.read import create_nb_reader
from myst_parser.config.main import MdParserConfig, merge_file_level

from workercheck.judge.steps import RAISES_EXCEPTION
from workercheck.run.page import Cell, Page

_KEY = "workercheck"
"""The key of a page's header that is ours."""


_EVALUATION = re.compile(r"\{eval(?::\w+)?\}(?:`(?P<role>[^`\n]+)`|[ \t]+(?P<directive>\S+))")
"""A place in the text that shows the value of an expression, as a role or as a directive."""


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

    def __init__(self, message: str, line: int = 1, hint: str = "Mend the page.") -> None:
        super().__init__(message)
        self.line = line
        self.hint = hint


class NoKernelError(PageError):
    """The kernel that a page names is not there."""


def read(
    docname: str, path: Path, text: str, md_config: MdParserConfig, nb_config: NbParserConfig
) -> Page | None:
    """Read a page as myst-nb will.

    Parameters
    ----------
    docname, path, text
        The page's name, its file, and what is in it.
    md_config, nb_config
        The configuration that myst-nb made from ``conf.py``.

    Returns
    -------
    Page or None
        None for a page that is no notebook, or has no code cell.

    Raises
    ------
    PageError
        If the reader cannot make a notebook of the text, or its header says what cannot be.
    """
    try:
        reader = create_nb_reader(str(path), md_config, nb_config, text)
        if reader is None:
            return None
        notebook = reader.read(text)
    except Exception as exc:
        _check_header(text, _front_matter(text), nb_config)
        raise _unreadable(text, exc) from exc
    _check_header(text, notebook.metadata, nb_config)
    if not any(cell.cell_type == "code" for cell in notebook.cells):
        return None
    _replace_kernel_alias(notebook, nb_config)
    overrides = nb_node_to_dict(notebook.metadata.get(nb_config.metadata_key, {}))
    overrides.pop("output_folder", None)
    own_mode = overrides.get("execution_mode")
    try:
        nb_config = nb_config.copy(**overrides)
    except Exception as exc:
        raise PageError(
            f"its {nb_config.metadata_key!r} header is not valid ({exc})",
            _line_of(text, nb_config.metadata_key),
            "Mend it; YAML takes the words on, off, yes and no for true and false unless they are "
            "quoted.",
        ) from exc
    exclusive = _is_exclusive(text, notebook.metadata.get(_KEY, {}))
    why_not_executed = _why_not_executed(path, notebook, nb_config, own_mode)
    lines = _lines(path, text, notebook)
    substitutions = _substitutions(reader.md_config, notebook)
    notebook, lines = _with_evaluations(notebook, lines, text, substitutions, nb_config)
    cells = _cells(path, notebook, lines)
    if all(cell.evaluates for cell in cells):
        why_not_executed = why_not_executed or "its code cells are empty"
    return Page(
        docname=docname,
        path=path,
        notebook=notebook,
        cells=cells,
        why_not_executed=why_not_executed,
        force=nb_config.execution_mode == "force",
        in_temp=nb_config.execution_in_temp,
        timeout=nb_config.execution_timeout if nb_config.execution_timeout > 0 else None,
        allow_errors=nb_config.execution_allow_errors,
        exclusive=exclusive,
    )


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
            _line_of(text, "kernelspec", "name"),
            f"Install it (one for Python: pip install ipykernel), or name one that is: {there}.",
        ) from None


def evaluation_of(cell: nbformat.NotebookNode) -> str | None:
    """Return the expression whose value a cell is there for, None for a cell of the page's own."""
    expression: str | None = cell.metadata.get(_KEY, {}).get("evaluates")
    return expression


def _unreadable(text: str, exc: Exception) -> PageError:
    """Say what keeps a text from being a notebook, and on which line."""
    if isinstance(exc, nbformat.ValidationError) and "tags" in exc.absolute_path:
        tags = re.search(rf"^:?tags:.*{re.escape(str(exc.instance))}", text, re.MULTILINE)
        return PageError(
            f"the tags of a cell are {exc.instance!r}, no list",
            text.count("\n", 0, tags.start()) + 1 if tags else 1,
            "Write them like :tags: [hide-input].",
        )
    place = re.search(r"\bat line (\d+)", str(exc))
    return PageError(f"cannot be read as a notebook ({exc})", int(place[1]) if place else 1)


def _front_matter(text: str) -> Any:
    """Return the header of a text, as far as it can be read."""
    match = re.match(r"---\s*\n(.*?)\n(?:---|\.\.\.)", text, re.DOTALL)
    try:
        return (yaml.safe_load(match[1]) if match else None) or {}
    except yaml.YAMLError:
        return {}


def _check_header(text: str, header: Any, nb_config: NbParserConfig) -> None:
    """Refuse a header whose parts are not what myst-nb takes them for.

    Raises
    ------
    PageError
        With the line of the part.
    """
    if not isinstance(header, dict):
        raise PageError(f"its header is {header!r}, no mapping")
    for key, example in (
        ("kernelspec", "kernelspec: {name: python3}"),
        ("jupytext", "jupytext: {text_representation: {format_name: myst}}"),
        (nb_config.metadata_key, f"{nb_config.metadata_key}: {{execution_timeout: 60}}"),
    ):
        if key in header and not isinstance(header[key], dict):
            raise PageError(
                f"its {key!r} header is {header[key]!r}, no mapping",
                _line_of(text, key),
                f"Write it like {example}.",
            )


def _cells(path: Path, notebook: nbformat.NotebookNode, lines: Sequence[int]) -> tuple[Cell, ...]:
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


def _substitutions(md_config: MdParserConfig, notebook: nbformat.NotebookNode) -> str:
    """Return the texts that may stand in the place of ``{{ names }}``."""
    merged = merge_file_level(md_config, nb_node_to_dict(notebook.metadata), lambda *_: None)
    return "\n".join(map(str, merged.substitutions.values()))


def _with_evaluations(
    notebook: nbformat.NotebookNode,
    lines: Sequence[int],
    text: str,
    substitutions: str,
    nb_config: NbParserConfig,
) -> tuple[nbformat.NotebookNode, list[int]]:
    """Add a cell for each expression in the text whose value the page asks for at that place.

    Where it is only quoted, nobody will ask for what the cell gives; so it may raise.

    Returns
    -------
    notebook
        With the cells added.
    lines
        The line of each of its cells.
    """
    cells = []
    numbers = []
    source = text.splitlines()
    for cell, line in zip(notebook.cells, lines, strict=True):
        cells.append(cell)
        numbers.append(line)
        if cell.cell_type != "markdown":
            continue
        asked = cell.source + (substitutions if "{{" in cell.source else "")
        for expression in dict.fromkeys(
            match["role"] or match["directive"] for match in _EVALUATION.finditer(asked)
        ):
            if not re.match(nb_config.eval_name_regex, expression):
                continue
            number = next(
                (
                    number
                    for number, words in enumerate(source[line - 1 :], start=line)
                    if "{eval" in words and expression in words
                ),
                line,
            )
            metadata = {
                "tags": [RAISES_EXCEPTION],
                _KEY: {"evaluates": expression, "line": number},
            }
            cells.append(nbformat.v4.new_code_cell(expression, metadata=metadata))
            numbers.append(number)
    return nbformat.from_dict({**notebook, "cells": cells}), numbers


def _is_exclusive(text: str, header: Any) -> bool:
    """Read the one word that a page's header may say to us."""
    way_out = "The only one is: workercheck: {exclusive: true}."
    if not isinstance(header, dict):
        raise PageError(
            f"its {_KEY!r} header is {header!r}, no mapping",
            _line_of(text, _KEY),
            way_out,
        )
    for name, value in header.items():
        if name != "exclusive":
            raise PageError(
                f"its {_KEY!r} header has no setting {name!r}",
                _line_of(text, _KEY, str(name)),
                way_out,
            )
        if not isinstance(value, bool):
            raise PageError(
                f"its {_KEY!r} header sets {name} to {value!r}, which is neither true nor false",
                _line_of(text, _KEY, name),
                way_out,
            )
    return bool(header.get("exclusive", False))


def _line_of(text: str, *keys: str) -> int:
    """Return the line on which a key of the header stands, within another one or by itself."""
    position = 0
    for key in keys:
        match = re.compile(rf"""(?<![\w-])["']?{re.escape(key)}["']?\s*:""").search(text, position)
        if match is None:
            break
        position = match.start()
    return text.count("\n", 0, position) + 1


def _lines(path: Path, text: str, notebook: nbformat.NotebookNode) -> list[int]:
    """Return the 1-based line on which each cell begins."""
    count = len(notebook.cells)
    if (lines := notebook.metadata.get("source_map")) and len(lines) == count:
        return [
            line + (cell.cell_type == "markdown")  # for which myst-nb counts from 0
            for line, cell in zip(lines, notebook.cells, strict=True)
        ]
    if path.suffix == ".ipynb":
        # Within a cell's source the quotes are escaped, so that this matches keys only.
        starts = [match.start() for match in re.finditer(r'(?<!\\)"cell_type"\s*:', text)]
        if len(starts) == count:
            return [text.count("\n", 0, start) + 1 for start in starts]
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


def _replace_kernel_alias(notebook: nbformat.NotebookNode, nb_config: NbParserConfig) -> None:
    spec = notebook.metadata.get("kernelspec", {})
    for pattern, alias in nb_config.kernel_rgx_aliases.items():
        if spec.get("name") is not None and re.fullmatch(pattern, spec["name"]):
            spec["name"] = alias
            return


def _why_not_executed(
    path: Path,
    notebook: nbformat.NotebookNode,
    nb_config: NbParserConfig,
    own_mode: str | None,
) -> str | None:
    """Say by whose word myst-nb does not execute a page, None where it does."""
    mode = nb_config.execution_mode
    for pattern in nb_config.execution_excludepatterns:
        if PurePosixPath(path.as_posix()).match(pattern):
            return f"as conf.py says (nb_execution_excludepatterns has {pattern!r})"
    if mode == "off":
        return (
            "as its header says (execution_mode is 'off')"
            if own_mode
            else "as conf.py says (nb_execution_mode is 'off')"
        )
    stored = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    if mode == "auto" and all(stored):
        return "as its outputs are stored in the file, and its execution mode is 'auto'"
    return None
