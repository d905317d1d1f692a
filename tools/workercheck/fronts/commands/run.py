"""``workercheck run``: watch any command, or execute notebooks and MyST pages, and judge it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workercheck.fronts.commands import extra, output, run_command

_USAGE = """workercheck run [--report FILE] [--format {github,json,junit,sarif,text}] -- COMMAND …
       workercheck run [--jobs N] [--timeout SECONDS] [--report FILE] [--format …] PAGE…"""

_EPILOG = """exit status with a command: the status of the command if it is not 0; if it is 0, 1 for
findings, 2 if no Python process was watched, and 0 otherwise. Exit status with pages: 0 no
findings, 1 findings, 2 evidence is missing. Runs of pages that passed are kept in the folder
.workercheck in the current folder."""


def main(argv: Sequence[str]) -> int:
    """Run a command or pages, and judge them.

    Returns
    -------
    int
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="workercheck run",
        usage=_USAGE,
        description="Run a command and watch what it sends to other processes, or execute "
        "notebooks (.ipynb) and MyST pages (.md) and watch their kernels.",
        epilog=_EPILOG,
    )
    output.add_options(parser)
    parser.add_argument(
        "--jobs",
        type=_positive(int),
        metavar="N",
        help="how many pages run at once; the default is one more than there are cores",
    )
    parser.add_argument(
        "--timeout",
        type=_positive(float),
        metavar="SECONDS",
        help="how long a cell of a page may take; the default is that of the page's header "
        "(mystnb: {execution_timeout: 60}), or 30 without it",
    )
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="a notebook or a MyST page")
    own, command = _split(argv)
    options = parser.parse_args(own)
    if command:
        if options.pages:
            parser.error(f"unknown argument {options.pages[0]!r}; write -- before the command")
        if options.jobs or options.timeout:
            parser.error("--jobs and --timeout are for pages, not for a command")
        return run_command.main(command, options.format, options.report)
    if not options.pages:
        parser.error("name a command or pages: workercheck run -- COMMAND …, workercheck run PAGE…")
    if not any(Path(word).suffix in (".ipynb", ".md") or Path(word).is_dir() for word in own):
        first = options.pages[0]
        words = ["python"] * first.endswith(".py") + options.pages
        call = f"workercheck run -- {shlex.join(words)}"
        parser.error(f"{first!r} is no page; write -- before a command: {call}")
    if why := extra.missing("run pages"):
        print(why, file=sys.stderr)
        return 2
    # Only here: a command needs none of what the extra brings.
    from workercheck.fronts.commands import run_pages

    return run_pages.main(
        options.pages, options.jobs or 0, options.timeout, options.format, options.report
    )


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, []
    return words[: words.index("--")], words[words.index("--") + 1 :]


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(word: str) -> float:
        value = kind(word)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{word} is not more than 0")
        return value

    parse.__name__ = "number"  # as argparse calls it where it is none
    return parse
