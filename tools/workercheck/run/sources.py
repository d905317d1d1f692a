"""The project's own files that a page's processes ran, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from workercheck.evidence import records as ev


def ran(events: Sequence[ev.Event]) -> dict[str, str] | None:
    """Return what the processes of a run ran of files that are not installed.

    To be asked right after the run.

    Returns
    -------
    dict of str to str or None
        By absolute path, the SHA-256 of each module and script. None where it cannot be known:
        the kernel had no last words, or a file is another one by now.
    """
    kinds = {type(event) for event in events}
    if ev.LastWords not in kinds or ev.Unanswered in kinds:
        return None
    found: dict[str, str] = {}
    for event in events:
        if isinstance(event, ev.FileRan):
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
