"""The command line: judge a finished build, run a command or pages, or look at an environment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from workercheck import __version__
from workercheck.fronts.commands import extra, output
from workercheck.report import gate

_EPILOG = """\
exit status: 0 no findings, 1 findings, 2 evidence is missing

other commands, each with its own --help:
  workercheck run -- COMMAND …    run a command, watch it, and judge it
  workercheck run PAGE…           execute notebooks and MyST pages, and judge them
  workercheck lint PATH…          read pages and scripts without running them
  workercheck execute SOURCEDIR   execute the pages of a Sphinx project
  workercheck report REPORT…      merge the reports of several machines
  workercheck cache               move kept runs to another machine as one file
  workercheck doctor              test whether functions reach workers here"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``workercheck OUTDIR``, or ``run``, ``execute``, ``report`` ….

    Returns
    -------
    int
        0 clean, 1 findings, 2 evidence is missing.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        Path.cwd()
    except OSError as error:  # somebody has removed it since the shell went there
        print(f"workercheck: the current folder cannot be found: {error}", file=sys.stderr)
        return 2
    if arguments[:1] == ["doctor"]:
        if why := extra.missing("start a kernel"):
            print(why, file=sys.stderr)
            return 2
        # Only here: the gate needs nothing installed.
        from workercheck.fronts.commands import doctor

        return doctor.main(arguments[1:])
    if arguments[:1] == ["run"]:
        from workercheck.fronts.commands import run

        return run.main(arguments[1:])
    if arguments[:1] == ["lint"]:
        from workercheck.fronts.commands import lint

        return lint.main(arguments[1:])
    if arguments[:1] == ["execute"]:
        if why := extra.missing("execute a Sphinx project", with_sphinx=True):
            print(why, file=sys.stderr)
            return 2
        from workercheck.fronts.commands import execute

        return execute.main(arguments[1:])
    if arguments[:1] == ["report"]:
        from workercheck.fronts.commands import merge

        return merge.main(arguments[1:])
    if arguments[:1] == ["cache"]:
        if why := extra.missing("read kept runs"):
            print(why, file=sys.stderr)
            return 2
        from workercheck.fronts.commands import cache

        return cache.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="workercheck",
        description="Find work that worker processes have lost. With OUTDIR, judge a finished\n"
        "documentation build by the report that the Sphinx extension workercheck left\n"
        "in it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "outdir", type=Path, metavar="OUTDIR", help="the folder that sphinx-build wrote"
    )
    output.add_format(parser)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    if not arguments:
        parser.error("name the folder of a finished build, or a command; --help lists the commands")
    options, others = parser.parse_known_args(arguments)
    if others and not others[0].startswith("-"):
        parser.error(f"there is no command {str(options.outdir)!r}; --help lists the commands")
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    found, doubts = gate.read(options.outdir)
    is_shown = found is not None and output.show(found, options.format)
    for doubt in doubts:
        print(f"workercheck: no verdict: {doubt}", file=sys.stderr)
    if not options.outdir.exists():  # a command that was misspelt looks like a folder
        print("workercheck: --help lists the commands", file=sys.stderr)
    if doubts or found is None or not is_shown:
        return 2
    return 1 if found.verdict == "fail" else 0
