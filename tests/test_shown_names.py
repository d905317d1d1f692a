"""Code that a page shows works for a reader who copies what the page shows, and nothing else."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

_SOURCE = ROOT / "docs/source"
_PAGES = sorted(_SOURCE.rglob("*.md"))
_CELL = re.compile(
    r"^(?P<fence>`{3,})\{code-cell\}.*\n"
    r"(?P<header>---\n(?:.*\n)*?---\n|(?::.*\n)*)(?P<code>(?:.*\n)*?)(?P=fence)$",
    re.MULTILINE,
)
_GIVEN = {*dir(builtins), "display", "get_ipython"}
# The first page begins with the picture of a run; its folded cell says where these are.
_TOLD = {_SOURCE / "index.md": {"Replay", "record"}}


def unshown(page: Path) -> Iterator[str]:
    """Name what the shown cells of a page use, and only hidden cells define."""
    text = page.read_text(encoding="utf-8")
    shown = _GIVEN | _TOLD.get(page, set())
    for cell in _CELL.finditer(text):
        if re.search(r"remove-(cell|input)", cell["header"]):
            continue
        code = cell["code"]
        if loaded := re.search(r"load: (.+)", cell["header"]):
            code = (page.parent / loaded[1]).read_text(encoding="utf-8")
        bound, used = set(), set()
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).partition(".")[0])
            elif name := getattr(node, "name", None):  # def, class, except
                bound.add(name)
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
