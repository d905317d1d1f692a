"""Judge a finished build by what is in its folder: missing evidence never passes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from workercheck.report import record as report
from workercheck.report.record import Report, ReportError

BUILDINFO = ".buildinfo"

_RENDERED_CELL = re.compile(rb'class="[^"]*\bcell_(?:input|output)\b')
_FENCE = re.compile(r"^[ >\t]*(?:[-*+] +|\d+[.)] +)?(?P<mark>`{3,}|~{3,}|:{3,})(?P<info>.*)$")

_WAY_OUT = "Remove the page if an earlier build left it, or build into an empty folder."


def fingerprint(outdir: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files of a build that tie a report to it.

    Parameters
    ----------
    outdir
        The folder of the build.
    files
        Paths in it, relative. What does not exist is left out.
    """
    return {
        path.as_posix(): hashlib.sha256((outdir / path).read_bytes()).hexdigest()
        for path in sorted(set(files))
        if (outdir / path).is_file()
    }


def read(outdir: Path) -> tuple[Report | None, list[str]]:
    """Read a build's report and look for what makes it worthless.

    Returns
    -------
    report
        None where there is none that can be read.
    doubts
        Why the build cannot be judged, one sentence each; empty when it can be.
    """
    if not outdir.is_dir():
        return None, [f"{outdir}: no such folder. Build the documentation first."]
    try:
        found = report.read(outdir)
    except ReportError as exc:
        return None, [str(exc)]
    if found.unfinished:
        return found, [f"{outdir}: the build did not finish ({found.unfinished}). Build again."]
    if found.shard is not None:
        return found, [
            f"{outdir}: the report is of shard {found.shard.name} only. Merge all reports."
        ]
    doubts = [*_of_another_build(outdir, found), *_unmentioned(outdir, found)]
    if not any(page.executed for page in found.pages):
        doubts.append(f"{outdir}: no page was executed, so nothing was checked.")
    return found, doubts


def _of_another_build(outdir: Path, found: Report) -> Iterator[str]:
    for name, digest in found.site.items():
        path = outdir / name
        if not path.is_file():
            yield f"{path}: the file is gone; the report belongs to another build. Build again."
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            what = (
                "the configuration is not the one that was checked (was workercheck taken out of "
                "conf.py?)"
                if name == BUILDINFO
                else "the page is not the one that was checked"
            )
            yield f"{path}: {what}; the report belongs to another build. Build again."


def _unmentioned(outdir: Path, found: Report) -> Iterator[str]:
    known = {page.docname for page in found.pages}
    outputs = set(found.site)
    for path in sorted(outdir.rglob("*.html")):
        name = path.relative_to(outdir)
        docname = name.with_suffix("").as_posix()
        if (
            name.as_posix() not in outputs
            and docname not in known
            and docname.removesuffix("/index") not in known
            and name.parts[0] != "_static"
            and _RENDERED_CELL.search(path.read_bytes())
        ):
            yield f"{path}: a page with code cells that the report does not mention. {_WAY_OUT}"
    for path in sorted((outdir / "_sources").rglob("*.md.txt")):
        docname = path.relative_to(outdir / "_sources").as_posix().removesuffix(".md.txt")
        if (
            path.relative_to(outdir).as_posix() not in outputs
            and docname not in known
            and (line := _first_code_cell(path))
        ):
            what = "a code-cell on a page that the report does not mention"
            yield f"{path}:{line}: {what}. {_WAY_OUT}"


def _first_code_cell(path: Path) -> int:
    """Return the line of the first ``code-cell`` that is not quoted in a longer fence, or 0."""
    inside: str | None = None
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        match = _FENCE.match(line)
        if match is None:
            continue
        mark, info = match["mark"], match["info"].strip()
        if inside is not None:
            if not info and mark.startswith(inside):
                inside = None
        elif info.startswith("{code-cell}"):
            return number
        elif info.startswith("{"):
            continue  # a directive: its content is read
        else:
            inside = mark
    return 0
