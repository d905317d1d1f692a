"""The sites that are built: this project's tutorials, and any number of small or sleeping pages."""

from __future__ import annotations

import shutil
from pathlib import Path

TUTORIALS = Path(__file__).parents[1] / "docs" / "source" / "tutorial"

CONF = """\
extensions = {extensions}
nb_execution_mode = "{mode}"
nb_execution_cache_path = {cache!r}
nb_execution_timeout = 600
suppress_warnings = ["mystnb", "myst", "ref", "toc"]  # pages of a larger site, each by itself
"""

SMALL_PAGE = """\
---
file_format: mystnb
kernelspec:
  name: python3
---

# Page {number}

```{{code-cell}} ipython3
number = {number}
```

```{{code-cell}} ipython3
import math

sum(math.sin(number * k) for k in range(100_000))
```
"""

SLEEPING_PAGE = """\
---
file_format: mystnb
kernelspec:
  name: python3
---

# Page {number}

```{{code-cell}} ipython3
import time

time.sleep({seconds})
{number}
```
"""


def copied(folder: Path, pages_of: Path = TUTORIALS) -> int:
    """Copy the pages with code that may run in company into a folder; return how many.

    What they load from beside their own folder goes beside the copy.
    """
    pages = {
        path.name: text
        for path in sorted(pages_of.glob("*.md"))
        # Two builds of a page that has the machine to itself differ in nothing.
        if "{code-cell}" in (text := path.read_text("utf-8")) and "exclusive: true" not in text
    }
    for path in pages_of.parent.glob("*.py"):
        if path.name != "conf.py":
            shutil.copy(path, folder.parent)
    return _write(folder, pages)


def small_pages(folder: Path, count: int) -> int:
    """Write small pages into a folder; return how many."""
    return _write(
        folder, {f"page{number:03}.md": SMALL_PAGE.format(number=number) for number in range(count)}
    )


def sleeping_pages(folder: Path, count: int, seconds: float) -> None:
    """Write a project of pages that only wait, so that machines can be simulated on one."""
    pages = {
        f"page{number:03}.md": SLEEPING_PAGE.format(number=number, seconds=seconds)
        for number in range(count)
    }
    _write(folder, pages)
    conf = CONF.format(extensions=["myst_nb", "workercheck"], mode="cache", cache="cache")
    (folder / "conf.py").write_text(conf, "utf-8")


def change_one_page(folder: Path, number: int) -> None:
    """Add a cell to the first page that has code, a different one for each number."""
    page = next(p for p in sorted(folder.glob("*.md")) if "{code-cell}" in p.read_text("utf-8"))
    with page.open("a", encoding="utf-8") as file:
        file.write(f"\n```{{code-cell}} ipython3\n{number} + 1\n```\n")


def _write(folder: Path, pages: dict[str, str]) -> int:
    folder.mkdir(parents=True)
    for name, text in pages.items():
        (folder / name).write_text(text, "utf-8")
    index = "# Index\n\n```{toctree}\n:glob:\n*\n```\n"
    (folder / "index.md").write_text(index, "utf-8")
    return len(pages)
