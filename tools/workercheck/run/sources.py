"""The project's own files that a page's processes ran, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from workercheck.evidence import records as ev


def ran(events: Sequence[ev.Event], cells: Sequence[str]) -> dict[str, str] | None:
    """Return what the processes of a run ran of files that are not installed.

    To be asked right after the run. A file that the page wrote with a text of its own is no source
    of the page: that text is in a cell.

    Parameters
    ----------
    events
        The run's evidence.
    cells
        The code of the page's cells.

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
    own = [_without_margins(cell) for cell in cells]
    for event in events:
        if isinstance(event, ev.FileRan):
            if event.written is not None:
                text = _without_margins(event.written)
                if text and any(text in cell for cell in own):
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


def _without_margins(text: str) -> str:
    """Return a text without indentation and empty lines: a cell may remove both as it writes."""
    return "\n".join(line for line in map(str.strip, text.splitlines()) if line)


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
