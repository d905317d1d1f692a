"""The command line; the package tells what it is for."""

from __future__ import annotations

import argparse
import collections
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from readers.environments import START_METHODS, Environment, environment
from readers.record import GOOD, Entry, ReadersError, Record, Task
from readers.running import FORMS, make_programs, reason, run

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "readers.json"

TIMEOUT = 600.0
"""Seconds that a run may take."""


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    parser = argparse.ArgumentParser(
        prog="nox -s readers --",
        description="Run the pages as their readers do, "
        "and note in docs/readers.json what came of it.",
    )
    parser.add_argument(
        "pages", nargs="*", metavar="PAGE", help="such as tutorial/tutorial.LearnerND"
    )
    parser.add_argument("--python", action="append", help="such as 3.14; by default, all")
    parser.add_argument("--start-method", action="append", choices=START_METHODS)
    parser.add_argument("--form", action="append", choices=tuple(FORMS))
    parser.add_argument(
        "--sections", action="store_true", help="run each section of the pages by itself, instead"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out what was good, and has not changed since"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds a run may take")
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at once")
    parser.add_argument("--data", type=Path, default=DATA, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, default=ROOT / "docs/source", help=argparse.SUPPRESS)
    parser.add_argument(
        "--environment", action="append", default=[], metavar="X.Y=FOLDER", help=argparse.SUPPRESS
    )
    return parser


def tasks(
    programs: Sequence[Mapping[str, Any]], pythons: Sequence[str], options: argparse.Namespace
) -> list[tuple[Task, Mapping[str, Any]]]:
    """Return what the options ask for.

    Raises
    ------
    ReadersError
        If they name a page that there is not.
    """
    known = {program["page"] for program in programs}
    wanted = set()
    for name in options.pages:
        docname = name.removeprefix("docs/source/").removesuffix(".md")
        matches = {page for page in known if docname in (page, page.rpartition("/")[2])}
        if not matches:
            raise ReadersError(f"no page {name!r} with code. There are: {', '.join(sorted(known))}")
        wanted |= matches
    if options.sections and not wanted:
        raise ReadersError("--sections wants the names of pages")
    return [
        (Task(program["page"], program["section"], form, python, method), program)
        for python in pythons
        for method in options.start_method or START_METHODS
        for form in options.form or FORMS
        for program in programs
        if bool(program["section"]) == options.sections
        and (not wanted or program["page"] in wanted)
    ]


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit status."""
    options = parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        record = Record.read(options.data)
        with tempfile.TemporaryDirectory(prefix="readers-programs-") as folder:
            programs = make_programs(options.source, Path(folder))
            record.there = {(program["page"], program["section"]) for program in programs}
            environments = {
                version: environment(version, Path(path).absolute())
                for version, _, path in (item.partition("=") for item in options.environment)
            }
            todo = tasks(programs, list(environments), options)
            if options.resume:
                todo = [item for item in todo if not _is_done(record, *item, environments)]
            done = _run_all(todo, Path(folder), environments, record, options)
    except ReadersError as error:
        print(f"readers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("readers: stopped; go on with --resume", file=sys.stderr)
        return 130
    counts = collections.Counter(entry.outcome for entry in done)
    print(
        "readers:",
        ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "nothing to do",
    )
    return 0 if set(counts) <= set(GOOD) else 1


def _interrupt(*_: object) -> None:
    # A shell's background job ignores SIGINT, and so would the pages, but for this handler.
    raise KeyboardInterrupt


def _is_done(
    record: Record, task: Task, program: Mapping[str, Any], environments: Mapping[str, Environment]
) -> bool:
    entry = record.entries.get(task)
    return (
        entry is not None
        and entry.outcome in GOOD
        and entry.digest == program["digests"][task.form]
        and entry.environment == environments[task.python].key
        and (entry.outcome == "explained") == bool(reason(program["limits"], task))
    )


def _run_all(
    todo: Sequence[tuple[Task, Mapping[str, Any]]],
    folder: Path,
    environments: Mapping[str, Environment],
    record: Record,
    options: argparse.Namespace,
) -> list[Entry]:
    stop = threading.Event()
    lock = threading.Lock()
    done: list[Entry] = []

    def one(task: Task, program: Mapping[str, Any]) -> None:
        if stop.is_set():
            return
        where = environments[task.python]
        entry = run(task, program, folder, where, timeout=options.timeout, stop=stop)
        if stop.is_set():
            return  # cut short: it tells nothing
        with lock:
            done.append(entry)
            record.add(entry, where.facts)
            what = f"{task.page} § {task.section}" if task.section else task.page
            print(
                f"[{len(done)}/{len(todo)}] {task.python} {task.start_method:10} {task.form:8} "
                f"{what}  {entry.outcome}  {entry.seconds:.1f} s"
                + (f"\n    {entry.error}" if entry.error else ""),
                flush=True,
            )

    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(one, *item) for item in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
