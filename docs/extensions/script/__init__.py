"""A page's cells as a script: what only a notebook understands, said in plain Python.

| in the page | in the script |
|---|---|
| ``await x`` at the top level | ``loop.run_until_complete(x)`` |
| ``adaptive.Runner(…)`` | the same with ``ioloop=loop``, since no loop is running |
| ``async for``, ``async with``, what needs a running loop | the cell as an ``async def``, run |
| a value that the page displays | ``show(value)``: printed, or saved if it is a plot |
| a cell that fails on purpose | in a ``try`` that prints the error |
| ``adaptive.notebook_extension()``, ``live_info``, ``live_plot`` | what a terminal can do |
| magics | plain Python |
| a process pool of Python's own | everything behind a ``__main__`` guard |
| prose | comments, in percent format |
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

from script import syntax
from script.cell import EXPECTED_TO_FAIL, CodeCell
from script.helpers import PLOT_OF_A_LEARNER, Names, helpers
from script.magics import without_magics
from script.syntax import ScriptError, defined_and_used

__all__ = [
    "EXPECTED_TO_FAIL",
    "Cell",
    "ScriptError",
    "convert",
    "defined_and_used",
    "without_magics",
]

GUARD = """
# A process pool of Python's own imports this file again in each of its workers (not under
# `fork`). Without this guard, each of them would start everything once more.
if __name__ == "__main__":
"""


@dc.dataclass(frozen=True)
class Cell:
    """A cell of a page."""

    source: str
    line: int
    """1-based line of the page on which it begins."""
    tags: frozenset[str] = frozenset()
    is_code: bool = True


def convert(cells: Sequence[Cell]) -> str:
    """Return the cells as the body of a script.

    Parameters
    ----------
    cells
        Prose and code, in order. Prose is Markdown that a text editor can show.

    Returns
    -------
    str
        Python source that any supported version compiles.

    Raises
    ------
    ScriptError
        For a cell that is no Python, or a magic that has no form in a script.
    """
    sources, trees = {}, []
    for cell in cells:
        if cell.is_code:
            try:
                sources[id(cell)] = without_magics(cell.source)
                trees.append(syntax.parse(sources[id(cell)]))
            except ScriptError as error:
                raise ScriptError(str(error), cell.line + error.line) from error
    names = Names(frozenset(syntax.names(trees)))
    quiet = syntax.functions_without_value(trees)
    holoviews = syntax.alias(trees, "holoviews")
    if holoviews is None and any(map(PLOT_OF_A_LEARNER.search, sources.values())):
        holoviews = "holoviews"  # `helpers` imports it
    blocks: list[str] = []
    number = 0
    for cell in cells:
        if cell.is_code:
            number += 1
            text = CodeCell(sources[id(cell)], cell.tags, names, quiet, holoviews, number).convert()
            blocks.append(f"# %%\n{text}")
        elif cell.source.strip():
            prose = "\n".join(f"# {line}".rstrip() for line in cell.source.strip().splitlines())
            blocks.append(f"# %% [markdown]\n{prose}")
    body = "\n\n".join(blocks) + "\n"
    definitions, imports = helpers(body, names, trees)
    body = (f"{definitions}\n\n\n" if definitions else "") + body
    if any(syntax.imports_main_again(tree) for tree in trees):
        body = GUARD.lstrip("\n") + syntax.indent((f"{imports}\n\n" if imports else "") + body)
    elif imports:
        body = f"{imports}\n\n{body}"
    compile(body, "<script>", "exec")  # a fault of this module, found while the site is built
    return body
