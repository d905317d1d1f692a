"""Where the files of a build are, and what a person calls them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.errors import SphinxError

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def outputs(app: Sphinx, docnames: Iterable[str]) -> list[Path]:
    """Return the files that pages are written to, relative to the output folder."""
    output = getattr(app.builder, "get_output_path", None) or getattr(
        app.builder, "get_outfilename", None
    )
    return [Path(output(name)).relative_to(app.outdir) for name in docnames] if output else []


def source(app: Sphinx, path: Path) -> str:
    """Return the path that a person would type in the folder in which the build runs."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        srcdir = Path(app.srcdir).resolve()
        return (srcdir.name / path.resolve().relative_to(srcdir)).as_posix()


def unwritable(exc: OSError) -> SphinxError:
    """Word the error of a file that cannot be written."""
    where = f"{exc.filename}: " if exc.filename else ""
    return SphinxError(
        f"workercheck: {where}{exc.strerror or exc}. Make room there, or let it be written."
    )
