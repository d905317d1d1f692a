"""Find the pages that write the same file of their folder while they run side by side.

Each would pass alone, as stock myst-nb runs it. Who wrote a file is not to be seen from outside:
a file that changed in the folder, and that more than one of the pages names, is a collision. A name
may be composed as the page runs: what has the form of it is named too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from workercheck.run.page import Page

_FILES = 5_000
"""How many files of a folder are looked at, at most."""

_QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\\\n]|\\.)+)\1""")
_FILLED_IN = re.compile(r"\{[^{}]*\}|%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")
"""What an f-string, ``format`` or ``%`` puts something in the place of."""

Files = Mapping[str, tuple[int, int, int]]
"""The files of a folder by their path within it: inode, size, time of the last change."""


class Company:
    """A page that is about to run, and the pages of its folder that run at the same time."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.others: list[Page] = []
        self._before = _files(page.path.parent)

    def meets(self, other: Company) -> None:
        """Note that two pages run at the same time."""
        if other.page.path.parent == self.page.path.parent:
            self.others.append(other.page)
            other.others.append(self.page)

    def collisions(self) -> dict[str, list[str]]:
        """Return the files over which the page may have run into another one, now that it ran.

        Returns
        -------
        dict
            The docnames of the other pages by the path of the file within the folder.
        """
        if not self.others:
            return {}
        before, after = self._before, _files(self.page.path.parent)
        own = _Names(self.page)
        names = {other.docname: _Names(other) for other in self.others}
        found: dict[str, list[str]] = {}
        for path in sorted({*before, *after}):
            name = Path(path).name
            if before.get(path) != after.get(path) and name in own:
                docnames = sorted(docname for docname, theirs in names.items() if name in theirs)
                if docnames:
                    found[path] = docnames
        return found


class _Names:
    """The names of files that stand in the code of a page, or that it may compose as it runs."""

    def __init__(self, page: Page) -> None:
        self._text = "\n".join(cell.source for cell in page.cells)
        self._composed = [
            composed
            for match in _QUOTED.finditer(self._text)
            if (composed := _composed(match[2])) is not None
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._text or any(composed.fullmatch(name) for composed in self._composed)


def _composed(text: str) -> re.Pattern[str] | None:
    """Return what matches the names that a text with gaps stands for, None where it has none."""
    last = _FILLED_IN.sub("\0", text).rpartition("/")[2]
    parts = last.split("\0")
    # What is nothing but gaps would match every file.
    if len(parts) == 1 or not any(map(str.isalnum, last)):
        return None
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)


def _files(folder: Path) -> Files:
    found: dict[str, tuple[int, int, int]] = {}
    for path in itertools.islice(_walk(folder), _FILES):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            name = os.path.relpath(path, folder)
            found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _walk(folder: Path) -> Iterator[str]:
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            yield os.path.join(above, name)  # noqa: PTH118, many files
