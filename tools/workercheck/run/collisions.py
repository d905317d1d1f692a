"""Find the pages that write the same file of their folder while they run side by side.

Each would pass alone, as stock myst-nb runs it. A file that the page's own Python wrote or removed
is in its evidence, whether it is still there or not. Who wrote another one that changed in the
folder is not to be seen from outside: the pages that name it may have. A name may be composed as
the page runs: what has the form of it is named too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from workercheck.evidence import records as ev
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

    def collisions(self, events: Sequence[ev.Event]) -> dict[str, list[str]]:
        """Return the files over which the page may have run into another one, now that it ran.

        Parameters
        ----------
        events
            The evidence of its run.

        Returns
        -------
        dict
            The docnames of the other pages by the path of the file within the folder.
        """
        if not self.others:
            return {}
        before, after = self._before, _files(self.page.path.parent)
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        named = _Names(self.page)
        own = {path for path in changed if Path(path).name in named}
        own |= _written(events, self.page.path.parent)
        names = {other.docname: _Names(other) for other in self.others}
        found: dict[str, list[str]] = {}
        for path in sorted(own):
            name = Path(path).name
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


def _written(events: Sequence[ev.Event], folder: Path) -> set[str]:
    """Return the files of a folder that processes wrote or removed, by their path within it."""
    root = folder.resolve()
    paths = (Path(event.path) for event in events if isinstance(event, ev.FileWritten))
    inner = (path.relative_to(root) for path in paths if path.is_relative_to(root))
    return {str(path) for path in inner if not any(map(_is_passed_over, path.parts[:-1]))}


def _is_passed_over(name: str) -> bool:
    """Tell whether a folder is of no page: hidden, or of a build."""
    return name.startswith((".", "_"))


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
        folders[:] = itertools.filterfalse(_is_passed_over, folders)
        for name in names:
            yield os.path.join(above, name)  # noqa: PTH118, many files
