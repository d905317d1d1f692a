"""The report about a command: each file that handed work out, and each test, is a page."""

from __future__ import annotations

import dataclasses as dc
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.judge import cells, remains, rules
from workercheck.judge.finding import WORKER_KINDS, Finding
from workercheck.judge.history import History
from workercheck.judge.steps import HandOut, HandOuts, step_at
from workercheck.report.record import PageReport, Report
from workercheck.run import interpreters
from workercheck.run.code_cells import SUFFIXES


def of_command(
    argv: Sequence[str], steps: HandOuts, events: Sequence[ev.Event], environment: dict[str, Any]
) -> Report:
    """Judge the evidence of a command.

    Parameters
    ----------
    argv
        The command.
    steps
        The lines that handed work out.
    events
        The whole evidence.
    environment
        What ``report.json`` says of it.
    """
    history = History(steps, events)
    pages = _Pages(argv)
    for line, executors in zip(steps.cells, _executors(history), strict=True):
        if executors:  # a line that only starts a program hands nothing out
            page = pages.of_step(line)
            page.executors = list(dict.fromkeys([*page.executors, *executors]))
    for pid, method in history.work_processes().items():
        step = step_at(steps.cells, history.cell_of_process(pid))
        if step is not None:
            page = pages.of_step(step)
            page.started[method] = page.started.get(method, 0) + 1
            page.workers += 1
    for finding in rules.judge(history):
        step = step_at(steps.cells, finding.cell)
        if step is None:
            pages.of_command().findings.append(dc.replace(finding, cell=None))
        else:
            pages.of_step(step).findings.append(dc.replace(finding, cell=step.cell))
    for step in steps.expecting:
        if not any(f.kind in WORKER_KINDS for f in pages.findings_of(step)):
            page = pages.of_step(step)
            page.findings = sorted([*page.findings, cells.absent_at(step)], key=lambda f: f.line)
    return Report(environment, pages.sorted(), {}, of_command=True)


def not_watched(argv: Sequence[str], doubt: Finding, environment: dict[str, Any]) -> Report:
    """Return the report about a command of which nothing is known."""
    pages = _Pages(argv)
    page = pages.of_command()
    page.executed = False
    page.findings = [doubt]
    return Report(environment, pages.sorted(), {}, of_command=True)


def doubt_about(report: Report, events: Sequence[ev.Event]) -> Finding | None:
    """Return why a report tells nothing about a project's code, None where it may tell all."""
    started = {
        interpreters.program(e.argv).rpartition(" ")[2]
        for e in events
        if isinstance(e, ev.ProcessStarted)
    }
    if started.difference(libraries.LAUNCHERS) or (started and report.verdict == "fail"):
        return None
    if not started:
        return remains.not_watched("no Python process of the command ran with the recorder", _LET)
    return remains.not_watched(
        "the only Python processes of the command with the recorder were those of "
        f"{', '.join(sorted(started))}, which run no code themselves",
        "If the command should have executed pages, see above why it did not, and remove the "
        f"outputs that it kept from earlier runs. {_LET}",
    )


_LET = (
    "Install workercheck in the environment in which the command's Python runs, and pass the "
    "variable WORKERCHECK_EVIDENCE on to it: for tox, add it to pass_env, or call tox with "
    "TOX_OVERRIDE=testenv.pass_env+=WORKERCHECK_EVIDENCE."
)


class _Pages:
    """The pages of a report, by name and path."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._pages: dict[tuple[str, str], PageReport] = {}

    def of_step(self, step: HandOut) -> PageReport:
        return self._page(step.docname, step.source)

    def of_command(self) -> PageReport:
        files = [word for word in self._argv[1:] if Path(word).is_file()]
        # A command may also name what it writes, such as the report of a test run.
        script = min(files, key=lambda word: not word.endswith(SUFFIXES), default=self._argv[0])
        return self._page(shlex.join(self._argv), script)

    def _page(self, docname: str, source: str) -> PageReport:
        return self._pages.setdefault((docname, source), PageReport(docname, source, executed=True))

    def findings_of(self, step: HandOut) -> list[Finding]:
        """Return the findings about a test or an example, of the cell where it is one."""
        return [
            f
            for page in self._pages.values()
            if page.docname == step.docname
            for f in page.findings
            if step.cell in (None, f.cell)
        ]

    def sorted(self) -> list[PageReport]:
        return [self._pages[key] for key in sorted(self._pages)]


def _executors(history: History) -> Iterable[list[str]]:
    """Yield, for each line, the executors that it handed work to."""
    found: list[list[str]] = [[] for _ in history.steps.cells]
    for place in history.of(ev.Place):
        step = history.steps.step_of(place)
        if step is not None and libraries.library_of(place.executor) is not None:
            name = libraries.public(place.executor)
            if not name.endswith(".Pipe"):
                found[step].append(name)
    return found
