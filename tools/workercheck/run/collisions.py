"""Find the pages that write the same file of their folder while they run side by side.

Each would pass alone, as stock myst-nb runs it. Who wrote a file is not to be seen from outside:
a file that changed in the folder, and that more than one of the pages names, is a collision.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from workercheck.run.page import Page

_FILES = 5_000
"""How many files of a folder are looked at, at most."""

Files = Mapping[str, tuple[int, int, int]]
"""The files of a folder by their path within it: inode, size, time of the last change."""


@dc.dataclass(slots=True)
class Company:
    """A page that runs, and the pages of the same folder that run at the same time."""

    page: Page
    folder: Path
    before: Files
    others: list[Page]

    @classmethod
    def of(cls, page: Page, folder: Path) -> Company:
        """Begin to watch the folder of a page that is about to run."""
        return cls(page, folder, _files(folder), [])

    def meets(self, other: Company) -> None:
        """Note that two pages run at the same time."""
        if other.folder == self.folder:
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
        after = _files(self.folder)
        changed = {
            path for path in {*self.before, *after} if self.before.get(path) != after.get(path)
        }
        own = _text(self.page)
        found: dict[str, list[str]] = {}
        for path in sorted(path for path in changed if Path(path).name in own):
            names = {other.docname for other in self.others if Path(path).name in _text(other)}
            if names:
                found[path] = sorted(names)
        return found


def _text(page: Page) -> str:
    return "\n".join(cell.source for cell in page.cells)


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
