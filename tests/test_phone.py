"""The code of pages fits the screen of a phone: the sources, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CODE_CELL, ROOT

COLUMNS = 60

# The cells of checking/ write files and run commands; pages show these, and not the cells.
_PAGES = [
    page for page in sorted((ROOT / "docs/source").rglob("*.md")) if page.parent.name != "checking"
]


def too_wide(page: Path) -> Iterator[str]:
    """Name each line of a code cell that has more columns than a phone shows."""
    text = page.read_text(encoding="utf-8")
    for cell in CODE_CELL.finditer(text):
        first = text.count("\n", 0, cell.start("options")) + 1
        shown = cell["options"] + cell["code"]
        for number, line in enumerate(shown.splitlines(), start=first):
            if len(line) > COLUMNS:
                yield f"{page.name}:{number}: {len(line)} columns: {line.strip()}"


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_code_of_a_page_fits_a_phone(page: Path) -> None:
    assert not list(too_wide(page))


def test_line_that_is_too_wide_is_named(tmp_path: Path) -> None:
    page = tmp_path / "wide.md"
    wide = "x" * (COLUMNS + 1)
    cell = f"```{{code-cell}}\n---\n{wide}: 1\n---\n{wide[1:]}\n{wide}\n```\n"
    page.write_text(f"{wide}\n{cell}{wide}\n```python\n{wide}\n```\n")
    assert list(too_wide(page)) == [f"wide.md:7: {COLUMNS + 1} columns: {wide}"]
