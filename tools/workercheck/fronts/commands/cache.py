"""``workercheck cache``: kept runs as one file, to take them to another machine."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from workercheck.fronts.commands import output
from workercheck.report.record import count
from workercheck.run import archive


def main(argv: Sequence[str]) -> int:
    """Export or import a store.

    Returns
    -------
    int
        0 when all of it was taken, 1 when a file was refused, 2 when there is none.
    """
    parser = argparse.ArgumentParser(
        prog="workercheck cache",
        description="Write the kept runs of pages into one file, or check the runs in a file and "
        "add them to a folder. To merge two folders, copy the files of one into the other.",
        epilog="exit status: 0 all runs were taken, 1 some runs were refused, 2 the file or the "
        "folder cannot be read",
    )
    parser.add_argument("action", choices=["export", "import"], help="write or read the file")
    parser.add_argument("file", type=Path, metavar="FILE", help="the file with the runs")
    output.add_store(parser)
    options = parser.parse_args(argv)
    try:
        if options.action == "export":
            if not options.store.is_dir():
                print(f"workercheck: {options.store}: no such folder", file=sys.stderr)
                return 2
            number = archive.write(options.store, options.file)
            print(f"workercheck: {options.file} has {count(number, 'run')}")
            return 0
        taken = archive.take(options.file, options.store)
    except OSError as exc:
        print(f"workercheck: {exc.filename}: {exc.strerror}", file=sys.stderr)
        return 2
    except zipfile.BadZipFile:
        print(
            f"workercheck: {options.file}: not written by workercheck cache export", file=sys.stderr
        )
        return 2
    print(f"workercheck: {count(taken.runs, 'run')} taken into {options.store}")
    for name, why in taken.refused.items():
        print(f"workercheck: {name} is refused: {why}", file=sys.stderr)
    return 1 if taken.refused else 0
