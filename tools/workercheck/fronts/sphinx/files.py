"""Where the files of a build are, and what a person calls them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.errors import SphinxError

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def outputs(app: Sphinx, docnames: Iterable[str]) -> list[Path]:
    """Return the files that pages are written to, relative to the output folder.

    The source of a page counts, where the site offers it. What does not exist may be among them.
    """
    builder = app.builder
    output = getattr(builder, "get_output_path", None) or getattr(builder, "get_outfilename", None)
    if output is None:
        return []
    if builder.name == "singlehtml":
        return [_inside(app, output(app.config.root_doc))]
    found = []
    for docname in docnames:
        suffix = Path(app.env.doc2path(docname)).suffix
        found += [
            _inside(app, output(docname)),
            Path("_sources") / f"{docname}{suffix}{app.config.html_sourcelink_suffix}",
        ]
    return found


def extra(app: Sphinx) -> list[Path]:
    """Return the files of ``html_extra_path`` that look like pages, relative to the output folder.

    The project puts them there as they are; no build has made them.
    """
    found = []
    for entry in app.config.html_extra_path if app.builder.format == "html" else ():
        root = Path(app.confdir) / entry
        for path in root.rglob("*") if root.is_dir() else [root]:
            inside = path.relative_to(root if root.is_dir() else root.parent)
            if path.suffix == ".html" or inside.parts[0] == "_sources":
                found.append(inside)
    return found


def source(app: Sphinx, path: Path) -> str:
    """Return the path that a person would type in the folder in which the build runs.

    Symbolic links stay as they are: where they lead to, nobody would look for a page.
    """
    srcdir = Path(app.srcdir)
    inside = path.relative_to(srcdir)
    try:
        known = srcdir.relative_to(Path.cwd().resolve()) / inside
    except ValueError:
        known = Path(srcdir.name) / inside
    return printable(known.as_posix())


def printable(name: str) -> str:
    """Return a name in which bytes that are not UTF-8 are written out."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _inside(app: Sphinx, path: str | Path) -> Path:
    return Path(path).relative_to(app.outdir)


def unwritable(exc: OSError) -> SphinxError:
    """Word the error of a file that cannot be written."""
    where = f"{exc.filename}: " if exc.filename else ""
    return SphinxError(
        f"workercheck: {where}{exc.strerror or exc}. Make room there, or allow writing there."
    )
