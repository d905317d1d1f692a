"""Directives of a documentation build that run code: on which page, and at which line of it.

`IPython.sphinxext` and the plot directive of Matplotlib compile the text of a directive under a
made-up name, or hand it to another interpreter. The directive is still on the stack then, and it
knows its page.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any


def runs(frame: FrameType) -> bool:
    """Tell whether a frame is of the text of a directive: `exec` got it, not an import."""
    is_text = frame.f_code.co_name == "<module>" or "__name__" not in frame.f_globals
    return is_text and _behind(frame) is not None


def position(frame: FrameType | None) -> tuple[str, int] | None:
    """Return page and 1-based line of the directive that runs, None where none does."""
    directive = _behind(frame)
    return _position(directive) if directive is not None else None


def line_within(frame: FrameType) -> tuple[str, int, str] | None:
    """Return page and 1-based line of the directive that runs code, and the line that runs."""
    directive = _behind(frame)
    where = _position(directive) if directive is not None else None
    if where is None:
        return None
    try:
        linecache = sys.modules.get("linecache")
        # IPython runs the text of a directive in pieces, and puts each there.
        entry: Any = getattr(linecache, "cache", {}).get(frame.f_code.co_filename)
        is_piece = frame.f_code.co_filename != "<string>" and entry is not None and len(entry) == 4
        lines: Any = entry[2] if is_piece else directive.content
        text = str(lines[(frame.f_lineno or 1) - 1])
    except Exception:  # the directive runs a file, or a text that it has made
        text = ""
    return (*where, text.strip())


def _behind(frame: FrameType | None) -> Any:
    """Return the innermost directive that runs, None where none does."""
    base = getattr(sys.modules.get("docutils.parsers.rst"), "Directive", None)
    while base is not None and frame is not None:
        if frame.f_code.co_name == "run":
            owner = frame.f_locals.get("self")
            if base in type(owner).__mro__:
                return owner
        frame = frame.f_back
    return None


def _position(directive: Any) -> tuple[str, int] | None:
    try:
        # As against the line of the text that is read, this knows of files that are included.
        source, line = directive.state_machine.get_source_and_line(directive.lineno)
        return (str(source), int(line)) if source and line else None
    except Exception:
        return None
