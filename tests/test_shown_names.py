"""Code that a page shows works for a reader who copies what the page shows, and nothing else."""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CODE_CELL, ROOT

sys.path.append(str(ROOT / "docs" / "extensions"))

import script

_SOURCE = ROOT / "docs/source"
_PAGES = sorted(_SOURCE.rglob("*.md"))
_GIVEN = {*dir(builtins), "display", "get_ipython"}
# The first page begins with the picture of a run; its folded cell says where these are.
_TOLD = {_SOURCE / "index.md": {"Replay", "record"}}


def unshown(page: Path) -> Iterator[str]:
    """Name what the shown cells of a page use, and only hidden cells define."""
    text = page.read_text(encoding="utf-8")
    shown = _GIVEN | _TOLD.get(page, set())
    for cell in CODE_CELL.finditer(text):
        header, code = f"{cell['header'] or ''}{cell['options']}", cell["code"]
        if re.search(r"remove-(cell|input)", header):
            continue
        if loaded := re.search(r"load: (.+)", header):
            code = (page.parent / loaded[1]).read_text(encoding="utf-8")
        bound, used = script.defined_and_used(ast.parse(code))
        shown = shown | bound
        line = text.count("\n", 0, cell.start()) + 1
        for name in sorted(used - shown):
            yield f"{page.name}:{line}: {name}"


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_what_a_shown_cell_uses_is_shown(page: Path) -> None:
    assert not list(unshown(page))


def test_name_that_only_a_hidden_cell_defines_is_found(tmp_path: Path) -> None:
    page = tmp_path / "hidden.md"
    cells = "```{{code-cell}}\n{}import math\n```\n\n```{{code-cell}}\nmath.pi\n```\n"
    page.write_text(cells.format(":tags: [hide-input]\n\n"))
    assert not list(unshown(page))
    page.write_text(cells.format(":tags: [remove-cell]\n\n"))
    assert list(unshown(page)) == ["hidden.md:7: math"]
