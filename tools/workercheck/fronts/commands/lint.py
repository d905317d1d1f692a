"""``workercheck lint PATH…``: read pages and scripts, and run nothing."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

from workercheck.fronts.commands import extra, output
from workercheck.judge.finding import Finding
from workercheck.lint.cells import Code, CodeError, script
from workercheck.lint.follow import check
from workercheck.report.record import PageReport, Report

_SCRIPT, _PAGES = ".py", (".md", ".ipynb")

_PASSED_OVER = {"node_modules", "site-packages", "__pycache__", "_build", "jupyter_execute"}
"""Folders whose files nobody wrote here; with those whose names begin with a dot."""

_EPILOG = "exit status: 0 no findings, 1 findings, 2 a file cannot be read"


class _UnreadableError(Exception):
    """A file cannot be read; the message says where and why."""


def main(argv: Sequence[str]) -> int:
    """Read pages and scripts, and tell which work their workers would lose.

    Returns
    -------
    int
        0 clean, 1 findings, 2 a file cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="workercheck lint",
        description="Read notebooks (.ipynb), MyST pages (.md) and scripts (.py) without running "
        "them, and find functions and objects that worker processes cannot load.",
        epilog=_EPILOG,
    )
    output.add_options(parser)
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a page, a script, or a folder, which is searched for .md, .ipynb and .py files",
    )
    options = parser.parse_args(argv)

    reports: list[PageReport] = []
    problems: list[str] = []
    for path in _files(options.paths):
        try:
            found = _lint(path, is_named=path in options.paths)
        except _UnreadableError as exc:
            problems.append(str(exc))
        else:
            if found is not None:
                name = output.name_of(str(path))
                reports.append(PageReport(str(path), name, executed=False, findings=found))
    report = Report({"python": platform.python_version()}, reports, {}, was_read=True)
    is_told = output.tell(report, options.format, options.report)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems or not is_told:
        return 2
    return 1 if report.verdict == "fail" else 0


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files that are named, and those below the folders that are, each once."""
    seen = set()
    for path in paths:
        for file in _below(path) if path.is_dir() else [path]:
            if file not in seen:
                seen.add(file)
                yield file


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] != "." and f not in _PASSED_OVER)
        for file in sorted(files):
            if file.endswith((_SCRIPT, *_PAGES)):
                yield Path(parent, file)


def _lint(path: Path, *, is_named: bool = False) -> list[Finding] | None:
    """Return the findings about a file, None where it has no code."""
    if path.suffix not in (_SCRIPT, *_PAGES) and path.exists():
        raise _UnreadableError(
            f"{path}: the file is neither a page nor a script. Name .md, .ipynb or .py files."
        )
    name = output.name_of(str(path))
    try:
        data = path.read_bytes()
        if path.suffix == _SCRIPT:
            return check([script(_decoded(data))], is_script=True)
        codes = _cells(name, path, data.decode("utf-8-sig"), is_named=is_named)
        return check(codes, is_script=False) if codes else None
    except OSError as exc:
        raise _UnreadableError(f"{name}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise _UnreadableError(f"{name}:1: the file is not UTF-8 ({exc.reason}).") from exc
    except SyntaxError as exc:  # of the line that names the encoding of a script
        raise _UnreadableError(f"{name}:1: {exc.msg}.") from exc
    except CodeError as exc:
        raise _UnreadableError(f"{name}:{exc.line}: {exc}. Fix the file.") from exc


def _decoded(data: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), encoding).read()


def _cells(name: str, path: Path, text: str, *, is_named: bool) -> list[Code]:
    """Return the code cells of a page, none where nobody executes it.

    A text in a folder may quote code cells; one that is named is meant to be a notebook.
    """
    if path.suffix != ".ipynb" and "{code-cell}" not in text:
        return []
    if why := extra.missing("read pages"):
        raise _UnreadableError(f"{name}: {why.removeprefix('workercheck: ')}.")
    # Only here: a script needs none of what the extra brings.
    from workercheck.fronts.commands import read_cells

    try:
        return read_cells.read(path, text)
    except read_cells.PageError as exc:
        if isinstance(exc, read_cells.NoNotebookError) and not is_named:
            return []
        place = f"{name}:{exc.line}" if exc.line else name
        raise _UnreadableError(" ".join(f"{place}: {exc}. {exc.hint}".split())) from exc
