"""A page's code cells, with their source lines and tags, read with myst-nb's own reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import nbformat
from myst_nb.core.config import NbParserConfig
from myst_nb.core.nb_to_tokens import nb_node_to_dict
from myst_nb.core.read import create_nb_reader
from myst_parser.config.main import MdParserConfig, merge_file_level

from workercheck.judge.steps import RAISES_EXCEPTION
from workercheck.run import reading
from workercheck.run.page import Page
from workercheck.run.reading import KEY, PageError

_EVALUATION = re.compile(r"\{eval(?::\w+)?\}(?:`(?P<role>[^`\n]+)`|[ \t]+(?P<directive>\S+))")
"""A place in the text that shows the value of an expression, as a role or as a directive."""


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
        reading.check_header(text, reading.front_matter(text), nb_config.metadata_key)
        raise reading.unreadable(text, exc) from exc
    reading.check_header(text, notebook.metadata, nb_config.metadata_key)
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
            f"the page's {nb_config.metadata_key!r} header is not valid ({exc})",
            reading.line_of(text, nb_config.metadata_key),
            "Fix the header; YAML takes the words on, off, yes and no for true and false unless "
            "they are quoted.",
        ) from exc
    exclusive = reading.is_exclusive(text, notebook.metadata.get(KEY, {}))
    why_not_executed = _why_not_executed(path, notebook, nb_config, own_mode)
    lines = reading.lines_of(path, text, notebook)
    substitutions = _substitutions(reader.md_config, notebook)
    notebook, lines = _with_evaluations(notebook, lines, text, substitutions, nb_config)
    cells = reading.cells_of(path, notebook, lines)
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
                KEY: {"evaluates": expression, "line": number},
            }
            cells.append(nbformat.v4.new_code_cell(expression, metadata=metadata))
            numbers.append(number)
    return nbformat.from_dict({**notebook, "cells": cells}), numbers


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
    for pattern in nb_config.execution_excludepatterns:
        if PurePosixPath(path.as_posix()).match(pattern):
            return f"as conf.py says (nb_execution_excludepatterns has {pattern!r})"
    return reading.why_not_executed(
        nb_config.execution_mode, notebook, in_header=own_mode is not None
    )
