"""Sphinx extension: marks the code in sentences that has a word too long for a line of a phone.

A word of code does not break, so that it keeps its hyphens and its punctuation; those words must.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MOST = 30
"""How many letters a phone shows in one line of a list."""


def mark(_app: Sphinx, doctree: nodes.document, _docname: str) -> None:
    """Give code with a long word a class of its own."""
    for code in doctree.findall(nodes.literal):
        if any(len(word) > _MOST for word in code.astext().split()):
            code["classes"].append("long")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the mark."""
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
