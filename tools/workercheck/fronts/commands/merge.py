"""``workercheck report``: make the reports of all shards into one, and judge it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from workercheck.fronts.commands import output
from workercheck.report import record
from workercheck.report.merge import merge


def main(argv: Sequence[str]) -> int:
    """Merge reports.

    Returns
    -------
    int
        0 clean, 1 findings, 2 evidence is missing.
    """
    parser = argparse.ArgumentParser(
        prog="workercheck report",
        description="Merge the reports that `workercheck execute --shard` has written into one, "
        "and judge it like the report of a build.",
        epilog="exit status: 0 no findings, 1 findings, 2 evidence or a shard is missing",
    )
    parser.add_argument("merge", nargs="+", metavar="REPORT", help="the report of a shard")
    output.add_options(parser)
    options = parser.parse_args(argv)
    reports = {}
    for word in options.merge:
        try:
            reports[word] = record.read_file(Path(word))
        except OSError as exc:
            print(f"workercheck: no verdict: {word}: {exc.strerror}", file=sys.stderr)
            return 2
        except record.ReportError as exc:
            print(f"workercheck: no verdict: {exc}", file=sys.stderr)
            return 2
    found, doubts = merge(reports)
    is_shown = output.show(found, options.format)
    for doubt in doubts:
        print(f"workercheck: no verdict: {doubt}", file=sys.stderr)
    # What is saved is taken for the whole.
    if doubts or not output.save(found, options.report) or not is_shown:
        return 2
    return 1 if found.verdict == "fail" else 0
