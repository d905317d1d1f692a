"""The runs of one build, from where they are judged to where pages are rendered.

In a folder for each build, so that what was judged is what is rendered, whatever other builds do
meanwhile; in files, because pages may be rendered in other processes.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import os
import pickle
import shutil
from pathlib import Path

import nbformat
import psutil


@dc.dataclass(frozen=True, slots=True)
class Rendition:
    """What a page is to show."""

    notebook: nbformat.NotebookNode
    """The page's notebook with the outputs of its run."""
    seconds: float
    """How long the run took."""
    ended: float
    """When it was over, in seconds since the epoch."""
    error: str | None
    """The kind of the worst finding, None where there is none."""


class Handover:
    """Where the runs are.

    Parameters
    ----------
    folder
        Belongs to the doctrees of the build. The build makes a folder within it and removes it
        when it has finished.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._own = folder / _name_of(os.getpid())
        left = [path for path in folder.glob("*") if not _belongs_to_another_build(path.name)]
        self.interrupted = bool(left)
        """Whether the last build with these doctrees did not finish."""
        self.refused: set[str] = set()
        """The pages that cannot be read, which are reported already, by docname."""
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        self._own.mkdir(parents=True, exist_ok=True)

    def give(self, docname: str, rendition: Rendition) -> None:
        """Have a page show a run.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        path = self._path_of(docname)
        try:
            path.write_bytes(pickle.dumps(rendition))
        except OSError as exc:  # a full disk does not say where it is
            raise OSError(exc.errno, exc.strerror, str(path)) from exc

    def take(self, docname: str) -> Rendition | None:
        """Return what a page is to show, None where it has no run."""
        try:
            found: Rendition = pickle.loads(self._path_of(docname).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def close(self) -> None:
        """Say that the build has finished."""
        shutil.rmtree(self._own, ignore_errors=True)

    def _path_of(self, docname: str) -> Path:
        return self._own / hashlib.sha256(os.fsencode(docname)).hexdigest()[:16]


def _name_of(pid: int) -> str:
    # Another process may get the same pid; not with the same birth.
    return f"{pid}-{psutil.Process(pid).create_time():.2f}"


def _belongs_to_another_build(name: str) -> bool:
    try:
        pid = int(name.partition("-")[0])
        return pid != os.getpid() and name == _name_of(pid)
    except (ValueError, psutil.Error):
        return False
