"""What each test of a command is told of the work that it handed out, while the command runs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

from workercheck.evidence import records as ev
from workercheck.judge.finding import Finding
from workercheck.judge.steps import HandOut
from workercheck.report.record import PageReport, Report
from workercheck.run.watch import FAILURES

_DECIDES = (*FAILURES, ev.Unseen, ev.Unfinished, ev.MarkedTest)
"""The events that a finding about a test begins with."""


class Told:
    """The findings of which tests know.

    Parameters
    ----------
    judge
        Makes the report about the command from its events so far.
    """

    def __init__(self, judge: Callable[[Sequence[ev.Event]], Report]) -> None:
        self._judge = judge
        self._read = 0
        self._pages: list[PageReport] = []
        self._over: dict[str, int] = {}
        """By test: how many events there were when it was over."""
        self._known: dict[str, set[tuple[str, int]]] = {}
        """By test: what it was told in this run of it."""
        self._ever: set[tuple[str, str, int]] = set()

    def new(
        self, test: str, events: Sequence[ev.Event], *, is_over: bool
    ) -> list[tuple[PageReport, Finding]]:
        """Return what a test does not know yet, each with the page of the report that it is on.

        Parameters
        ----------
        test
            Its id.
        events
            The evidence so far.
        is_over
            Whether the test is over. One that asks again after that is run again.
        """
        since = self._over.get(test)
        if since is None:
            pages = self._all(events)
        else:
            pages = self._judge(
                [e for i, e in enumerate(events) if i >= since or not isinstance(e, _DECIDES)]
            ).pages
        known = self._known.setdefault(test, set())
        found = [
            (page, finding)
            for page in pages
            if page.docname == test
            for finding in page.findings
            if (finding.kind, finding.line) not in known
        ]
        known |= {(finding.kind, finding.line) for _, finding in found}
        self._ever |= {(test, finding.kind, finding.line) for _, finding in found}
        if is_over:
            self._over[test] = len(events)
            del self._known[test]
        return found

    def knows(self, step: HandOut | PageReport | None, finding: Finding) -> bool:
        """Tell whether the test that handed out the work of a finding was told of it."""
        return step is not None and (step.docname, finding.kind, finding.line) in self._ever

    def rest(self, report: Report) -> Report:
        """Return a report without what tests were told."""
        pages = [
            dc.replace(page, findings=[f for f in page.findings if not self.knows(page, f)])
            for page in report.pages
        ]
        return dc.replace(report, pages=pages)

    def _all(self, events: Sequence[ev.Event]) -> list[PageReport]:
        """Judge anew where something has come that decides."""
        new = events[self._read :]
        self._read = len(events)
        if any(isinstance(event, _DECIDES) for event in new):
            self._pages = self._judge(events).pages
        return self._pages
