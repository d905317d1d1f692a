"""A page's code cells, with their source lines and tags, read with myst-nb's own reader."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from myst_nb.core.config import NbParserConfig
from myst_nb.core.nb_to_tokens import nb_node_to_dict
from myst_nb.core.read import create_nb_reader
from myst_parser.config.main import MdParserConfig

from workercheck.run.page import Cell, Page

_KEY = "workercheck"
"""The key of a page's header that is ours."""


class PageError(Exception):
    """A page cannot be read as a notebook; the message names the file and the way out.

    Parameters
    ----------
    message
        Without the line.
    line
        1-based line of the source.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


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
        None for a page that is no notebook, or has no code cell with something in it.

    Raises
    ------
    PageError
        If the reader cannot make a notebook of the text, or its header says what cannot be.
    """
    reader = create_nb_reader(str(path), md_config, nb_config, text)
    if reader is None:
        return None
    try:
        notebook = reader.read(text)
    except Exception as exc:
        raise PageError(f"{path}: cannot be read as a notebook ({exc}). Mend its header.") from exc
    _replace_kernel_alias(notebook, nb_config)
    overrides = nb_node_to_dict(notebook.metadata.get(nb_config.metadata_key, {}))
    overrides.pop("output_folder", None)
    own_mode = overrides.get("execution_mode")
    try:
        nb_config = nb_config.copy(**overrides)
    except Exception as exc:
        raise PageError(
            f"{path}: its {nb_config.metadata_key!r} header is not valid ({exc}). Mend it.",
            _line_of(text, nb_config.metadata_key),
        ) from exc
    exclusive = _is_exclusive(path, text, notebook.metadata.get(_KEY, {}))
    lines = notebook.metadata.get("source_map") or _lines_in_json(text)
    cells = tuple(
        Cell(
            position=position,
            line=lines[position] if position < len(lines) else 1,
            tags=frozenset(cell.metadata.get("tags", ())),
            source=cell.source,
        )
        for position, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip()
    )
    if not cells:
        return None
    return Page(
        docname=docname,
        path=path,
        notebook=notebook,
        cells=cells,
        why_not_executed=_why_not_executed(path, notebook, nb_config, own_mode),
        force=nb_config.execution_mode == "force",
        in_temp=nb_config.execution_in_temp,
        timeout=nb_config.execution_timeout if nb_config.execution_timeout > 0 else None,
        allow_errors=nb_config.execution_allow_errors,
        exclusive=exclusive,
    )


def _is_exclusive(path: Path, text: str, header: Any) -> bool:
    """Read the one word that a page's header may say to us."""
    way_out = "The only one is: workercheck: {exclusive: true}"
    if not isinstance(header, dict):
        raise PageError(
            f"{path}: its {_KEY!r} header is {header!r}, no mapping. {way_out}",
            _line_of(text, _KEY),
        )
    for name, value in header.items():
        if name != "exclusive":
            raise PageError(
                f"{path}: its {_KEY!r} header has no setting {name!r}. {way_out}",
                _line_of(text, _KEY, str(name)),
            )
        if not isinstance(value, bool):
            raise PageError(
                f"{path}: its {_KEY!r} header sets {name} to {value!r}, which is neither true nor "
                f"false. {way_out}",
                _line_of(text, _KEY, name),
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


def _lines_in_json(text: str) -> list[int]:
    """Return the line on which each cell of an ``.ipynb`` file says its type."""
    # Within a cell's source the quotes are escaped, so that this matches keys only.
    starts = [match.start() for match in re.finditer(r'(?<!\\)"cell_type"\s*:', text)]
    return [text.count("\n", 0, start) + 1 for start in starts]


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
    mode = nb_config.execution_mode
    for pattern in nb_config.execution_excludepatterns:
        if PurePosixPath(path.as_posix()).match(pattern):
            return f"nb_execution_excludepatterns has {pattern!r}"
    if mode == "off":
        return "its execution mode is 'off'"
    if mode == "inline":
        return "its execution mode is 'inline', which runs it out of sight; use 'cache'"
    if own_mode in ("auto", "force"):
        # myst-nb obeys the header over the cache that holds the watched run.
        return f"its header sets execution_mode to {own_mode!r}; leave that to conf.py"
    stored = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    if mode == "auto" and all(stored):
        return "its execution mode is 'auto' and the file holds outputs; use 'cache' or strip them"
    return None
