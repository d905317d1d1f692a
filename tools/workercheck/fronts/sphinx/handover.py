"""The runs of one build as myst-nb finds them: a jupyter-cache for each page.

A folder for each page, because jupyter-cache knows pages by their code alone, and pages may have
the same; and for each build, so that what was judged is what is rendered, whatever other builds do
meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import psutil
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from sqlalchemy.exc import SQLAlchemyError

from workercheck.run.side_by_side import Run


class Handover:
    """Where myst-nb looks for a page's run.

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
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        self._own.mkdir(parents=True, exist_ok=True)

    def folder(self, docname: str) -> Path:
        """Return the folder of the jupyter-cache of a page."""
        return self._own / hashlib.sha256(docname.encode()).hexdigest()[:16]

    def give(self, run: Run) -> None:
        """Have myst-nb render a run.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        try:
            get_cache(str(self.folder(run.page.docname))).cache_notebook_bundle(
                CacheBundleIn(
                    run.notebook, str(run.page.path), data={"execution_seconds": run.seconds}
                ),
                check_validity=False,
                overwrite=True,
            )
        except (RuntimeError, SQLAlchemyError) as exc:
            reason: BaseException = exc
            while reason.__cause__ is not None:  # what SQLite says, without the statement
                reason = reason.__cause__
            raise OSError(errno.EIO, str(reason), str(self._own)) from exc

    def close(self) -> None:
        """Say that the build has finished."""
        shutil.rmtree(self._own, ignore_errors=True)


def _name_of(pid: int) -> str:
    # Another process may get the same pid; not with the same birth.
    return f"{pid}-{psutil.Process(pid).create_time():.2f}"


def _belongs_to_another_build(name: str) -> bool:
    try:
        pid = int(name.partition("-")[0])
        return pid != os.getpid() and name == _name_of(pid)
    except (ValueError, psutil.Error):
        return False
