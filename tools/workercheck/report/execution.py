"""Pages of one build or command: taken from the cache or run, judged, and kept if they passed."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence

from workercheck.judge import remains, rules
from workercheck.judge.history import History
from workercheck.report import provenance
from workercheck.report.progress import Progress, Screen
from workercheck.report.record import PageReport
from workercheck.run import schedule
from workercheck.run.page import Page
from workercheck.run.side_by_side import Run, run_pages
from workercheck.run.store import PageCache


class Execution:
    """What pages are executed with.

    Parameters
    ----------
    cache
        Where their runs are kept.
    jobs
        How many may run at once, 0 for the default.
    screen
        Where a person reads of it.
    engine
        What runs them, None for this machine: called with the pages and, as those of `run_pages`,
        *has_failed*, *finished* and *progress*.
    """

    def __init__(
        self,
        cache: PageCache,
        jobs: int,
        screen: Screen,
        engine: Callable[..., None] | None = None,
    ) -> None:
        self._cache = cache
        # One more than cores: a page waits for a quarter of its time.
        self._jobs = jobs or schedule.cores() + 1
        self._screen = screen
        self._engine = engine

    def execute(
        self,
        pages: Sequence[Page],
        reports: Mapping[str, PageReport],
        took: Callable[[Run], None] = lambda _: None,
    ) -> None:
        """Have a run of each page, and fill in its report.

        Parameters
        ----------
        pages
            What to execute.
        reports
            Those of the pages, by docname.
        took
            Called with each run when its report is there.

        Raises
        ------
        OSError
            If the folder for temporary files cannot be written.
        KeyboardInterrupt
            On SIGINT and SIGTERM, after every kernel and worker has been ended.
        """
        to_run = []
        for page in pages:
            run = self._cache.load(page)
            if run is not None and _passes(run):
                judge(reports[page.docname], run)
                reports[page.docname].cached = True
                took(run)
            else:
                to_run.append(page)
        if self._cache.damaged:
            damaged = ", ".join(self._cache.damaged)
            self._screen.say(f"dropped the kept runs of {damaged}, which are damaged")
        if self._cache.unsigned:
            self._screen.say(
                f"the kept runs of {', '.join(self._cache.unsigned)} do not count, because they "
                "are not signed with the key in WORKERCHECK_CACHE_KEY"
            )
        if to_run:
            self._run(to_run, reports, took)

    def _run(
        self,
        pages: Sequence[Page],
        reports: Mapping[str, PageReport],
        took: Callable[[Run], None],
    ) -> None:
        jobs = min(self._jobs, len(pages))
        known = self._cache.seconds()
        spent: dict[str, float] = {}
        progress = Progress(pages, jobs, known, self._screen)

        def finished(run: Run) -> None:
            reported = reports[run.page.docname]
            spent[run.page.docname] = run.seconds
            judge(reported, run)
            took(run)
            if not reported.unexpected:
                self._cache.store(run)
            failures = len(reported.unexpected)
            progress.finished(run, f"FAILED ({failures})" if failures else "ok")

        try:
            engine = self._engine or functools.partial(
                run_pages, jobs=jobs, collided=progress.collided
            )
            engine(
                schedule.order(pages, known),
                has_failed=rules.has_failed,
                finished=finished,
                progress=progress.underway,
            )
        finally:
            progress.close()
        self._cache.remember_seconds(spent)
        self._cache.prune()
        if self._cache.lost:
            lost = ", ".join(self._cache.lost)
            self._screen.say(f"not kept for the next run: {lost} ({self._cache.why_lost})")


def judge(reported: PageReport, run: Run) -> None:
    """Add to a page's report what its run tells."""
    reported.executed = True
    reported.seconds = run.seconds
    try:
        history = History(run.page, run.events)
        reported.executors = history.executors()
        reported.started = history.workers()
        reported.workers = sum(reported.started.values())
        provenance.describe(reported, run.page, history)
        reported.findings += rules.judge(history)
    except Exception as exc:  # it must not end the build, nor pass the page
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        reported.findings.append(
            remains.not_watched(
                f"the evidence could not be judged ({type(exc).__name__}: {exc}, at {where})",
                "Report this as a bug of workercheck, with the page.",
            )
        )


def _passes(run: Run) -> bool:
    """Tell whether a kept run is still good under the page as it is now."""
    try:
        return all(f.expected for f in rules.judge(History(run.page, run.events)))
    except Exception:
        return False
