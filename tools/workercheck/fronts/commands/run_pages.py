"""Execute notebooks and MyST pages without Sphinx, and judge them."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from workercheck.fronts.commands import output, read_page
from workercheck.judge import rules
from workercheck.report.execution import Execution
from workercheck.report.progress import Screen, is_terminal
from workercheck.report.record import PageReport, Report
from workercheck.run import reading
from workercheck.run.environment import environment as describe_environment
from workercheck.run.page import Page
from workercheck.run.reading import PageError
from workercheck.run.store import PageCache

CACHE = Path(".workercheck")
"""Where runs are kept, in the folder in which the command runs."""


class UnreadableError(Exception):
    """Pages cannot be run; the message has a line for each."""


def run(words: Sequence[str], jobs: int, timeout: float | None) -> Report:
    """Execute pages, and return the report about them.

    Parameters
    ----------
    words
        The paths of the pages, as a person typed them.
    jobs
        How many run at once, 0 for the default.
    timeout
        Seconds that a cell may take, None for what the pages say.

    Raises
    ------
    UnreadableError
        If a page cannot be run, before any other is.
    OSError
        If the folder for temporary files cannot be written.
    KeyboardInterrupt
        On SIGINT and SIGTERM, after every kernel and worker has been ended.
    """
    cwd = Path.cwd()
    texts: dict[str, str] = {}
    pages: list[Page] = []
    problems = []
    for word in words:
        path = Path(os.path.abspath(word))  # noqa: PTH100, links stay as they are
        name = output.name_of(word)
        try:
            _check(path, pages)
            texts[name] = reading.text_of(name, path, "utf-8-sig", "Save it as UTF-8.")
            page = read_page.read(name, path, texts[name])
            if page.why_not_executed is None:
                reading.check_kernel(page, texts[name])
            pages.append(page if timeout is None else page.with_timeout(timeout))
        except PageError as exc:
            place = f"{name}:{exc.line}" if exc.line else name
            problems.append(" ".join(f"{place}: {exc}. {exc.hint}".split()))
    if problems:
        raise UnreadableError("\n".join(problems))

    reports = {page.docname: _report(page, texts[page.docname]) for page in pages}
    environment = describe_environment(cwd)
    screen = Screen(_write, is_terminal(sys.stderr))
    execution = Execution(_cache(cwd / CACHE, environment.key), jobs, screen)
    execution.execute([page for page in pages if page.why_not_executed is None], reports)
    return Report(dc.asdict(environment), list(reports.values()), {})


def main(
    words: Sequence[str], jobs: int, timeout: float | None, form: str, saved_to: Path | None
) -> int:
    """Execute pages and judge them.

    Parameters
    ----------
    words, jobs, timeout
        As for `run`.
    form
        The name of the format in which findings are printed.
    saved_to
        Where the report is written, None for nowhere.

    Returns
    -------
    int
        0 clean, 1 findings, 2 evidence is missing.
    """
    try:
        found = run(words, jobs, timeout)
    except UnreadableError as exc:
        print(exc, file=sys.stderr)
        return 2
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        print(
            f"workercheck: {where}{exc.strerror or exc}. Make room, or allow writing there.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("workercheck: interrupted, and every kernel has been ended", file=sys.stderr)
        return 2
    is_told = output.tell(found, form, saved_to)
    if not any(page.executed for page in found.pages):
        print(
            "workercheck: no verdict: no page was executed, so nothing was checked",
            file=sys.stderr,
        )
        return 2
    if not is_told:
        return 2
    return 1 if found.verdict == "fail" else 0


def _report(page: Page, text: str) -> PageReport:
    """Begin the report of a page with what its text tells."""
    return PageReport(
        page.docname,
        page.docname,
        executed=False,
        why_not_executed=page.why_not_executed or "",
        findings=[rules.unconverted_cell(n) for n in read_page.unconverted_cells(page, text)],
    )


def _check(path: Path, pages: Sequence[Page]) -> None:
    """Refuse what is no page, or a page for the second time."""
    suffixes = f"{read_page.NOTEBOOK} or {read_page.MARKDOWN}"
    if path.is_dir():
        raise PageError(
            "the path is a folder", 0, f"Name the pages in it, which end in {suffixes}."
        )
    if not path.exists():
        raise PageError("no such file", 0, "A command comes after --: workercheck run -- COMMAND.")
    if path.suffix not in (read_page.NOTEBOOK, read_page.MARKDOWN):
        raise PageError(
            f"the file is not a page: its name does not end in {suffixes}",
            0,
            "To run a program, write workercheck run -- python script.py.",
        )
    if any(path.samefile(page.path) for page in pages):
        raise PageError("the page is named twice", 0, "Name each page once.")


def _cache(folder: Path, key: str) -> PageCache:
    # Not for the repository of the project, whatever its own .gitignore says.
    with contextlib.suppress(OSError):
        folder.mkdir()
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    return PageCache(folder, key)


def _write(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
