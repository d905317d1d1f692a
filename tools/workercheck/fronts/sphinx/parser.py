"""Pages as myst-nb renders them, with the outputs of the runs that were watched.

Whatever myst-nb makes of one page, the others are read all the same.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from docutils import nodes
from sphinx.errors import SphinxWarning
from sphinx.util import logging

from workercheck.fronts.sphinx import domain, internals
from workercheck.fronts.sphinx.handover import Rendition
from workercheck.judge import remains, rules
from workercheck.run.reading import evaluation_of

LOGGER = logging.getLogger(__name__)

_MERGED = ("kernelspec", "language_info", "widgets")
"""The notebook's metadata that a run may change, as jupyter-cache merges it."""

_REPLACEMENT = """\
# This page could not be rendered

````text
{}
````
"""


class Parser(internals.MystNbParser):
    """myst-nb's parser, which executes nothing itself."""

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse a page; what raises is a finding about the page."""
        known = domain.of(document.settings.env)
        docname = document.settings.env.docname
        before = _state(document)
        try:
            with internals.executed_by(lambda stock: _Chooser(known, docname, stock)):
                super().parse(inputstring, document)
        except SphinxWarning:  # sphinx-build -W, which ends at the first one
            raise
        except Exception as exc:
            LOGGER.debug("workercheck: %s", docname, exc_info=True)
            reason = " ".join(f"{type(exc).__name__}: {exc}".split())
            _restore(document, before)
            super(internals.MystNbParser, self).parse(_REPLACEMENT.format(reason), document)
            if docname not in known.handover.refused:
                known.add(docname, rules.not_rendered(reason))


class _Chooser:
    """Makes the client that gives myst-nb the outputs of one page.

    Parameters
    ----------
    known
        What is known of the build's pages.
    docname
        The page.
    stock
        Makes the client that myst-nb would have.
    """

    def __init__(
        self, known: domain.WorkercheckDomain, docname: str, stock: internals.Client
    ) -> None:
        self._known = known
        self._docname = docname
        self._stock = stock

    def __call__(
        self, notebook: Any, source: str, nb_config: Any, logger: Any, read_fmt: Any = None
    ) -> internals.NotebookClientBase:
        rendition = self._known.handover.take(self._docname)
        if rendition is None:  # nothing to run, or a reason not to, which is in the report
            return internals.NotebookClientBase(notebook, None, nb_config, logger)
        ran = [cell for cell in _code_cells(rendition.notebook) if evaluation_of(cell) is None]
        if [cell.source for cell in ran] != [cell.source for cell in _code_cells(notebook)]:
            self._known.add(
                self._docname,
                remains.not_watched(
                    "myst-nb executed the page itself, so its outputs are those of an unwatched "
                    "run",
                    "Build again if the file was edited during the build; otherwise an extension "
                    "changes the code of the page after it was read: turn that extension off.",
                ),
            )
            return self._stock(notebook, source, nb_config, logger, read_fmt)
        return _WatchedRun(
            notebook,
            None,
            nb_config,
            logger,
            rendition=rendition,
            report=lambda finding: self._known.add(self._docname, finding),
        )


class _WatchedRun(internals.NotebookClientBase):
    """Gives myst-nb the outputs of a run."""

    def start_client(self) -> None:
        """Put the outputs into the notebook that is rendered."""
        rendition: Rendition = self._kwargs["rendition"]
        self._shown = 0
        """How many code cells the page has come past, without those that it does not show."""
        self._values: list[dict[str, list[Any]]] = [{}]
        """What an expression gave, after so many of them."""
        cells = iter(_code_cells(self.notebook))
        for ran in _code_cells(rendition.notebook):
            if (expression := evaluation_of(ran)) is not None:
                self._values[-1].setdefault(expression, []).append(ran)
                continue
            cell = next(cells)
            cell.outputs = ran.outputs
            cell.execution_count = ran.execution_count
            if _is_shown(cell):
                self._values.append({})
        for key in _MERGED:
            if key in rendition.notebook.metadata:
                self.notebook.metadata[key] = rendition.notebook.metadata[key]
        self.exec_metadata = {
            "mtime": rendition.ended,
            "runtime": rendition.seconds,
            "method": self.nb_config.execution_mode,
            "succeeded": rendition.error is None,
            "error": rendition.error,
            "traceback": None,
        }

    def code_cell_outputs(self, cell_index: int) -> tuple[int | None, list[Any]]:
        """Return the outputs of a cell, and remember that the page has come so far."""
        self._shown = sum(map(_is_shown, _code_cells(self.notebook, cell_index + 1)))
        found: tuple[int | None, list[Any]] = super().code_cell_outputs(cell_index)
        return found

    def eval_variable(self, name: str) -> list[Any]:
        """Return the value that an expression had at this place of the page.

        Raises
        ------
        EvalNameError
            If the expression is none of those that are allowed.
        LookupError
            If there is no value, which is a finding.
        """
        if not re.match(self.nb_config.eval_name_regex, name):
            raise internals.EvalNameError(name)
        ran = self._values[self._shown].get(name, [])
        if why := _why_no_value(ran):
            line = ran[0].metadata["workercheck"]["line"] if ran else 0
            self._kwargs["report"](rules.no_value(line, name, why))
            raise LookupError(why)
        outputs: list[Any] = ran[0].outputs
        return outputs


def _why_no_value(ran: Sequence[Any]) -> str:
    """Return what is wrong with the evaluations of an expression, or an empty text."""
    if not ran:
        return "it is not in the text of the page itself"
    if any(cell.outputs != ran[0].outputs for cell in ran):
        return "it has several values, and a cell between them is not shown, so none can be chosen"
    for output in ran[0].outputs:
        if output.output_type == "error":
            return f"{output.ename}: {output.evalue}"
    return "" if ran[0].outputs else "it gave nothing, or the page ended before"


def _code_cells(notebook: Any, stop: int | None = None) -> list[Any]:
    return [cell for cell in notebook.cells[:stop] if cell.cell_type == "code"]


def _is_shown(cell: Any) -> bool:
    """Tell whether myst-nb asks for the outputs of a code cell."""
    tags = cell.metadata.get("tags", ())
    return "remove-cell" not in tags and "remove_cell" not in tags


def _state(document: nodes.document) -> dict[str, Any]:
    """Return what a parser may have changed in a document."""
    state = {
        name: copy.copy(value)
        for name, value in vars(document).items()
        if isinstance(value, dict | list | set)
    }
    return state | {"transforms": list(document.transformer.transforms)}


def _restore(document: nodes.document, state: dict[str, Any]) -> None:
    document.transformer.transforms = state.pop("transforms")
    vars(document).update(state)
