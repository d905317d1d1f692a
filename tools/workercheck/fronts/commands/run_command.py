"""``workercheck run -- COMMAND``: watch any command, and judge it."""

from __future__ import annotations

import dataclasses as dc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workercheck.evidence import records as ev
from workercheck.fronts.commands import output
from workercheck.judge import rules
from workercheck.judge.finding import Finding
from workercheck.judge.history import History
from workercheck.judge.steps import HandOuts, step_at
from workercheck.report import command as report_of
from workercheck.report import record
from workercheck.report.record import PageReport, Report
from workercheck.report.told import Told
from workercheck.run.command import CommandRun, run_command
from workercheck.run.environment import environment as describe_environment
from workercheck.run.locate import hand_outs
from workercheck.run.notebooks import Notebooks


def main(
    command: Sequence[str],
    form: str,
    saved_to: Path | None,
) -> int:
    """Run a command and judge it.

    Parameters
    ----------
    command
        The command.
    form
        The name of the format in which findings are printed.
    saved_to
        Where the report is written, None for nowhere.

    Returns
    -------
    int
        The command's exit status where it is not 0, else 1 on findings, 2 when nothing was
        watched, else 0; 2 also when the command cannot be started.
    """
    cwd = Path.cwd()
    notebooks = Notebooks(command, cwd)

    def steps_of(events: Sequence[ev.Event]) -> HandOuts:
        return hand_outs(events, cwd, notebooks)

    told = Told(lambda events: report_of.of_command(command, steps_of(events), events, {}))

    def has_failed(events: list[ev.Event]) -> bool:
        steps = steps_of(events)
        return any(
            not (finding.expected or told.knows(step_at(steps.cells, finding.cell), finding))
            for finding in rules.lost(History(steps, events))
        )

    def answer(question: dict[str, Any], events: list[ev.Event]) -> list[str]:
        found = told.new(str(question["test"]), events, is_over=bool(question["is_over"]))
        return [record.line(page, finding) for page, finding in found if not finding.expected]

    try:
        run = run_command(command, has_failed=has_failed, answer=answer)
    except OSError as exc:
        where = exc.filename or command[0]
        print(f"workercheck: cannot run {where}: {exc.strerror or exc}", file=sys.stderr)
        return 127 if isinstance(exc, FileNotFoundError) else 126
    environment = _environment(run, cwd)
    found = report_of.of_command(run.argv, steps_of(run.events), run.events, environment)
    doubt = report_of.doubt_about(found, run.events)
    if doubt is not None:
        found = report_of.not_watched(run.argv, doubt, environment)
    rest = told.rest(found)
    is_shown = _show(found, rest, run, doubt, form)
    if not output.save(found, saved_to) or not is_shown:
        return run.status or 2
    if run.cut_short:
        return 1
    if run.status:
        return run.status
    if doubt is not None:
        return 2
    # pytest has said by its own status what became of the tests that were told.
    return 1 if rest.verdict == "fail" else 0


def _environment(run: CommandRun, cwd: Path) -> dict[str, Any]:
    started = [e for e in run.events if isinstance(e, ev.ProcessStarted)]
    environment = dc.asdict(describe_environment(cwd))
    if started:  # the command may have an environment of its own
        environment["python"] = started[0].python
    return environment


def _show(
    found: Report,
    rest: Report,
    run: CommandRun,
    doubt: Finding | None,
    form: str,
) -> bool:
    """Print the findings: text where it does not mix with what the command printed.

    Returns
    -------
    bool
        Whether standard output could be written.
    """
    if run.cut_short:
        print(f"workercheck: the command was ended: {run.cut_short}", file=sys.stderr)
    if form != "text":
        return output.show(found, form)
    if doubt is None:
        lines = [_line(page, finding) for page in rest.pages for finding in page.unexpected]
        print("\n".join([f"workercheck: {record.summary(found)}", *lines]), file=sys.stderr)
    else:
        print(f"workercheck: no verdict: {doubt.message}. {doubt.hint}", file=sys.stderr)
    return True


def _line(page: PageReport, finding: Finding) -> str:
    """Tell about a finding, with the test whose work it is about: its report is out already."""
    is_test = "::" in page.docname
    return record.line(page, finding) + (f" handed out by {page.docname}" if is_test else "")
