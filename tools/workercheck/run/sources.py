"""The project's own files that a page's processes ran or read, by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from workercheck.evidence import records as ev

_OF_PROJECT = ((".git", ".hg", "pyproject.toml", "setup.py"), ("conf.py",))
"""Names of what is in a project's folder, in the order in which they are looked for."""


def project_of(folder: Path) -> Path:
    """Return the folder of the project that a page's folder is in, without symbolic links.

    It has the repository or the package's description; where there is none of both, the
    configuration of Sphinx; else it is the page's folder.
    """
    here = folder.resolve()
    for names in _OF_PROJECT:
        for above in (here, *here.parents):
            if any((above / name).exists() for name in names):
                return above
    return here


def used(events: Sequence[ev.Event]) -> dict[str, str] | None:
    """Return what the processes of a run ran and read of files that are not installed.

    To be asked right after the run. A file that they wrote before they used it is a product of the
    page, and depends on nothing but the others.

    Returns
    -------
    dict of str to str or None
        By absolute path, the SHA-256 of each module, script and other file. None where it cannot
        be known: the kernel had no last words, or a file is another one by now.
    """
    kinds = {type(event) for event in events}
    if ev.LastWords not in kinds or ev.Unanswered in kinds:
        return None
    found: dict[str, str] = {}
    products: set[str] = set()
    for event in events:
        if isinstance(event, ev.FileWritten):
            products.add(event.path)
        elif isinstance(event, ev.FileRan | ev.FileRead):
            if os.path.realpath(event.path) in products:
                continue
            try:
                status = Path(event.path).stat()
                if (status.st_size, status.st_mtime_ns) != (event.size, event.modified):
                    return None
                if event.path not in found:
                    found[event.path] = digest(Path(event.path))
            except (OSError, ValueError):
                return None
    return found


def unchanged(files: Mapping[str, str] | None) -> bool:
    """Tell whether files are still as their SHA-256 says; not where nobody knows which they are."""
    try:
        return files is not None and all(
            digest(Path(path)) == known for path, known in files.items()
        )
    except (OSError, ValueError):
        return False


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
