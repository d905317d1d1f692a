"""Turn the evidence of a run into findings.

Two rules keep the list short: one cause is one finding, however many workers met it, and an error
that merely follows from a worker's failure (a broken pool, a cell that waits for ever) is told in
that failure's finding instead of one of its own.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

from workercheck.evidence import records as ev
from workercheck.judge import cells, endings, messages, remains, wording
from workercheck.judge.finding import Finding
from workercheck.judge.history import History
from workercheck.judge.steps import Steps


def judge(history: History) -> list[Finding]:
    """Return the findings about a run, by line.

    Parameters
    ----------
    history
        What the evidence tells, of the whole run or so far.
    """
    failures = _merge(
        [
            *messages.failed_loads(history),
            *messages.failed_dumps(history),
            *endings.dead_workers(history),
        ]
    )
    lost_results = _merge(remains.service_threads(history))
    found = _explain(history, failures)
    found += cells.errors(history, [*failures, *lost_results])
    found += lost_results
    found += _merge(remains.unseen(history, found))
    found += cells.dead_kernels(history)
    if all(failure.expected for failure in (*failures, *lost_results)):
        found += cells.timeouts(history)
    found += cells.absent(history, found)
    found += remains.unwatched(history)
    found += remains.leftovers(history)
    found = [_labelled(history, finding) for finding in found]
    return sorted(map(wording.printable, found), key=lambda f: (f.line, f.kind))


def has_failed(steps: Steps, events: Sequence[ev.Event]) -> bool:
    """Tell whether work has been lost that was not expected to: the page can no longer pass."""
    return any(not finding.expected for finding in lost(History(steps, events)))


def lost(history: History) -> list[Finding]:
    """Return a finding for each piece of work that has been lost so far."""
    return [
        *messages.failed_loads(history),
        *messages.failed_dumps(history),
        *endings.dead_workers(history),
        *remains.service_threads(history),
    ]


def not_executed(line: int, reason: str, hint: str) -> Finding:
    """Word the finding about a page, or a cell of one, that nobody ran."""
    return Finding("not-executed", f"not executed: {wording.clean(reason)}", line, hint=hint)


def unconverted_cell(line: int) -> Finding:
    """Word the finding about a ``code-cell`` that is no cell of a notebook."""
    return not_executed(
        line,
        "a code-cell outside a notebook, or nested in another directive or a list",
        "Begin the page with a header that says file_format: mystnb, and put the cell "
        "at the page's top level.",
    )


def not_rendered(reason: str) -> Finding:
    """Word the finding about a page that could not be rendered."""
    return Finding(
        "not-rendered",
        f"not rendered: {wording.clean(reason)}",
        0,
        hint="Build with `sphinx-build -vv` to see what myst-nb could not do with the page.",
    )


def no_kernel(line: int, reason: str, hint: str) -> Finding:
    """Word the finding about a page whose kernel is not there."""
    return Finding("kernel-died", f"not executed: {wording.clean(reason)}", line, hint=hint)


def no_value(line: int, expression: str, reason: str) -> Finding:
    """Word the finding about an expression in the text that has no value."""
    return Finding(
        "cell-error",
        f"{{eval}}`{wording.clean(expression)}` has no value ({wording.clean(reason)})",
        line,
        hint="Use a name that the page's code has defined above this line, in the page's own text.",
    )


def _labelled(history: History, finding: Finding) -> Finding:
    """Name the cell of a finding where its line does not."""
    step = history.step(finding.cell)
    if step is None or not step.label:
        return finding
    return dc.replace(finding, message=f"{step.label}: {finding.message}")


def _explain(history: History, failures: Sequence[Finding]) -> list[Finding]:
    """Add to the first failure where the page went no further because of it."""
    if not failures:
        return []
    first, *others = failures
    note = cells.note_on_waiting(history, first)
    return [dc.replace(first, message=first.message + note), *others]


def _merge(failures: Sequence[Finding]) -> list[Finding]:
    """Keep one finding for each cause, in order, and say how many processes met it."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for failure in failures:
        # Messages of one cause may name a number or an address that changes each time.
        what = failure.object or failure.message
        cause = (failure.kind, failure.cell, failure.line, what, failure.exception)
        groups.setdefault(cause, []).append(failure)
    merged = []
    for group in groups.values():
        processes = len({f.process for f in group})
        many = f", in {processes} processes" if processes > 1 else ""
        merged.append(dc.replace(group[0], message=group[0].message + many))
    return merged
