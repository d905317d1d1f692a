"""Findings about cells: their errors, their limits, their kernel, and failures that are missing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workercheck.evidence import records as ev
from workercheck.judge import wording
from workercheck.judge.finding import WORKER_KINDS, Finding, FindingKind
from workercheck.judge.history import History
from workercheck.judge.steps import EXPECTING_EXAMPLE, HandOut
from workercheck.libraries import BROKEN

LOADING = re.compile(r"\b(?:un-?|de)(?:pickl|serializ)", re.IGNORECASE)
"""What libraries say when they pass on that something could not be loaded."""

NO_RESULTS = re.compile(r"\bcache with result_\w+ not alive")
"""What a Pool says that is terminated after the thread has ended which hands its results out."""


def errors(history: History, failures: Sequence[Finding]) -> list[Finding]:
    """Return a finding for each cell that failed, but for what only follows from a failure."""
    found = []
    for e in history.ended:
        cell = history.step(e.cell)
        if e.exception is None or cell is None:
            continue
        error = f"{e.exception}: {e.message}" if e.message else e.exception
        follows = is_broken(e) or any(_follows(e, failure) for failure in failures)
        if follows and any(not failure.expected for failure in failures):
            continue
        if follows and not failures and not history.has_reader_ended_any(before=e):
            found.append(_lost_worker(history, e, error))
        elif not (cell.may_raise or history.steps.allow_errors):
            found.append(
                Finding(
                    "cell-error",
                    f"the cell failed ({wording.clean(error)})",
                    cell.line,
                    cell=e.cell,
                    exception=e.exception,
                    hint="Fix the cell, or tag it raises-exception if the error is on purpose.",
                )
            )
    return found


def _lost_worker(history: History, e: ev.CellFinished, error: str) -> Finding:
    """Word what only the cell's error tells: an executor lost a worker that nobody saw."""
    kind: FindingKind = "worker-died"
    message = "a worker died while it had work"
    if "un-serialize" in e.message:
        kind = "unpickle-result" if "result" in e.message else "unpickle-task"
        message = "a message between the page and its workers could not be unpickled"
    return Finding(
        kind,
        f"{message} ({wording.clean(error)})",
        history.line(e.cell),
        cell=e.cell,
        expected=history.expects(e.cell),
        exception=e.exception,
        hint="Read the traceback in the page, and run the function without an executor to see "
        "what ends the worker.",
    )


def note_on_waiting(history: History, failure: Finding) -> str:
    """Say where the page went no further because of a failure, empty where it went on."""
    stopped = [e.cell for e in history.of(ev.Stopped)]
    if stopped:
        return f"; the cell at line {history.line(stopped[0])} waited for it and was stopped"
    broken = [e for e in history.ended if is_broken(e) and not history.expects(e.cell)]
    if broken and broken[0].cell != failure.cell:
        return (
            f"; the cell at line {history.line(broken[0].cell)} failed with it"
            f" ({broken[0].exception})"
        )
    return ""


def timeouts(history: History) -> list[Finding]:
    """Return a finding for each cell that took too long."""
    return [
        Finding(
            "cell-timeout",
            f"the cell did not end within {e.timeout:g} s",
            history.line(e.cell),
            cell=e.cell,
            exception="CellTimeoutError",
            hint="Make the cell faster, give the page more time with execution_timeout in its "
            "mystnb header, or find what the cell waits for.",
        )
        for e in history.of(ev.CellTimedOut)
    ]


def dead_kernels(history: History) -> list[Finding]:
    """Return a finding for a kernel that ended by itself, or never came up."""
    cells = history.steps.cells
    return [
        Finding(
            "kernel-died",
            f"the kernel died ({wording.clean(e.message)})",
            history.line(e.cell) or (cells[0].line if cells else 0),
            cell=e.cell,
            hint="Run the cell in a Python interpreter to see what ends the process. If the "
            "kernel did not start, install the kernel that the page's header names.",
        )
        for e in history.of(ev.KernelDied)
    ]


def absent(history: History, found: Sequence[Finding]) -> list[Finding]:
    """Return a finding for each cell that should show the failure of a worker and does not."""
    seen = {f.cell for f in found if f.kind in WORKER_KINDS}
    errors = {e.cell: e for e in history.ended}
    missing = []
    for index, cell in enumerate(history.steps.cells):
        if not cell.expects_worker_error or index in seen or index not in errors:
            continue
        error = errors[index]
        instead = (
            f"the cell failed with {wording.clean(error.exception)} instead"
            if error.exception
            else "the cell passed"
        )
        missing.append(
            Finding(
                "expected-but-absent",
                f"the cell is tagged expect-worker-error, and no worker failed: {instead}",
                cell.line,
                cell=index,
                exception=error.exception,
                hint="Remove the tag if the failure is fixed, or change the cell so that it "
                "shows the failure again.",
            )
        )
    return missing


def absent_at(step: HandOut) -> Finding:
    """Word the finding about a test, a cell or an example in which a worker should have failed."""
    what, mark, says = (
        ("cell", "tag", "is tagged expect-worker-error")
        if step.cell is not None
        else ("test", "marker", "is marked expect_worker_error")
        if step.docname != step.source
        else ("example", "comment", f"says {EXPECTING_EXAMPLE}")
    )
    where = f"{step.label}: " if step.label else ""
    return Finding(
        "expected-but-absent",
        f"{where}the {what} {says}, and no worker failed: the {what} passed",
        step.line,
        cell=step.cell,
        hint=f"Remove the {mark} if the failure is fixed, or change the {what} so that a worker "
        "fails again.",
    )


def is_broken(error: ev.CellFinished) -> bool:
    """Tell whether a cell failed because an executor had lost a worker."""
    return error.exception is not None and (
        error.exception in BROKEN
        or any(f"{name}: " in error.causes or f"{name}(" in error.message for name in BROKEN)
    )


def _follows(error: ev.CellFinished, failure: Finding) -> bool:
    """Tell whether a cell's error is what a worker's failure looks like in the page."""
    follows = LOADING.search(error.message) or NO_RESULTS.search(error.message)
    if failure.cell == error.cell or follows:
        return True
    name = (failure.exception or "").rsplit(".", 1)[-1]
    return (
        bool(error.message)
        and name == error.exception
        and wording.clean(error.message) in failure.message
    )
