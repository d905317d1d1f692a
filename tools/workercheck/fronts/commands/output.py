"""What the commands that judge something have in common: how a report is printed and saved."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from workercheck.report import record
from workercheck.report.record import Report
from workercheck.report.sarif import sarif

FORMATS = {"text": record.text, "json": Report.to_json, "junit": record.junit}
FORMATS |= {"github": record.github, "sarif": sarif}
"""What writes a report, by the name of the format."""


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``."""
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default="text",
        help="the format in which findings are printed (default: %(default)s)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--report`` and ``--format``."""
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the report into this file, as JSON"
    )
    add_format(parser)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``."""
    parser.add_argument(
        "--store",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder in which runs are kept, the setting workercheck_store of the build",
    )


def tell(report: Report, form: str, path: Path | None) -> bool:
    """Print the report and save it, as `show` and `save`; return whether both could be done."""
    return all([show(report, form), save(report, path)])


def show(report: Report, form: str) -> bool:
    """Print the report in the format that was asked for; return whether it could be written."""
    return write(FORMATS[form](report))


def write(text: str) -> bool:
    """Print a text to standard output; return whether it could be written.

    A reader that has gone, as ``head`` goes, has read enough.
    """
    if not text:
        return True
    try:
        print(text, flush=True)
    except OSError as exc:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            return True
        print(f"workercheck: standard output: {exc.strerror}", file=sys.stderr)
        return False
    return True


def save(report: Report, path: Path | None) -> bool:
    """Write the report where that was asked for; return whether it could be written."""
    if path is None:
        return True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report.to_json() + "\n", encoding="utf-8")
    except OSError as exc:
        print(f"workercheck: {path}: {exc.strerror}", file=sys.stderr)
        return False
    return True


def name_of(word: str) -> str:
    """Return what a report calls the file that a person named: its path from here, where it can."""
    path = Path(os.path.abspath(word))  # noqa: PTH100, links stay as they are
    cwd = Path.cwd()
    return path.relative_to(cwd).as_posix() if path.is_relative_to(cwd) else word
