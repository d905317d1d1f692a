"""The pages that a build is about to read: run, or taken from the cache, and judged."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util import logging

from workercheck.fronts.sphinx import files
from workercheck.fronts.sphinx import read_page as pages
from workercheck.fronts.sphinx.domain import PageRecord
from workercheck.fronts.sphinx.handover import Handover
from workercheck.fronts.sphinx.internals import myst_nb
from workercheck.fronts.sphinx.progress import Progress
from workercheck.judge import remains, rules
from workercheck.judge.history import History
from workercheck.report import provenance
from workercheck.report.record import PageReport
from workercheck.run import schedule
from workercheck.run.page import Page
from workercheck.run.side_by_side import Run, run_pages
from workercheck.run.store import PageCache

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LOGGER = logging.getLogger(__name__)

_TAKEN_OVER = ("auto", "force", "cache")
"""The execution modes in which this extension runs the pages, and myst-nb finds them cached."""


class Execution:
    """The execution of a build's pages.

    Parameters
    ----------
    app
        The build, its builder made.
    key
        That of the environment.

    Raises
    ------
    OSError
        If the folder with the doctrees cannot be written.
    """

    def __init__(self, app: Sphinx, key: str) -> None:
        self._app = app
        self._env = myst_nb(app.env)
        self._nb_config = self._env.mystnb_config
        self._cache = PageCache(Path(self._nb_config.execution_cache_path) / "workercheck", key)
        self._pages: dict[str, Page] = {}
        self.records: dict[str, PageRecord] = {}
        """What this build knows of the pages that it is about to read, by docname."""
        self.handover = Handover(Path(app.doctreedir) / "workercheck")
        if self._nb_config.execution_mode in _TAKEN_OVER:
            self._env.mystnb_config = self._nb_config.copy(execution_mode="cache")

    @property
    def is_forced(self) -> bool:
        """Whether every page is to run at every build."""
        return bool(self._nb_config.execution_mode == "force")

    def execute(self, docnames: Iterable[str]) -> None:
        """Have a run of each page that has code cells, or a finding that says why not.

        Raises
        ------
        SphinxError
            If the folders of the build cannot be written.
        """
        to_run = []
        for docname in docnames:
            page = self._read(docname)
            if page is None:
                continue
            self._pages[docname] = page
            self._note(docname, page.path)
            if page.why_not_executed is not None:
                self._leave_alone(page)
                continue
            run = self._cache.load(page)
            if run is not None and _passes(run):
                self._take(run, cached=True)
            else:
                to_run.append(page)
        if self._cache.damaged:
            LOGGER.info(
                "workercheck: dropped what was kept of %s: it is damaged",
                ", ".join(self._cache.damaged),
            )
        if self._cache.unsigned:
            LOGGER.info(
                "workercheck: what was kept of %s does not count: it is not signed with the key in "
                "WORKERCHECK_CACHE_KEY",
                ", ".join(self._cache.unsigned),
            )
        if to_run:
            self._run(to_run)

    def point_to_run(self, docname: str) -> None:
        """Have myst-nb find the run of the page that it is about to read."""
        self._env.mystnb_config = self._env.mystnb_config.copy(
            execution_cache_path=str(self.handover.folder(docname))
        )

    def compare(self) -> None:
        """Make sure that myst-nb rendered the runs that were watched, and knows their outcome."""
        for docname in self._pages:
            reported = self.records[docname].report
            rendered = self._env.nb_metadata[docname].get("exec_data")
            if not reported.executed:
                continue
            if rendered is None or rendered["runtime"] != reported.seconds:
                reported.findings.append(
                    remains.not_watched(
                        "myst-nb executed the page itself, so that what it shows is of another run",
                        "Build again if the file was edited meanwhile; else an extension changes "
                        "the page's code between its file and myst-nb: do that another way.",
                    )
                )
            elif reported.unexpected:
                worst = reported.unexpected[0]
                rendered.update(succeeded=False, error=worst.kind, traceback=None)

    def _note(self, docname: str, path: Path) -> PageReport:
        reported = PageReport(docname, files.source(self._app, path), executed=False)
        self.records[docname] = PageRecord(reported)
        return reported

    def _read(self, docname: str) -> Page | None:
        app = self._app
        path = Path(app.env.doc2path(docname))
        if app.registry.source_suffix.get(path.suffix) != "myst-nb" and not any(
            path.name.endswith(suffix) for suffix in self._nb_config.custom_formats
        ):
            return None
        try:
            text = path.read_text(encoding="utf-8-sig")
            return pages.read(docname, path, text, self._env.myst_config, self._nb_config)
        except (OSError, UnicodeDecodeError, pages.PageError) as exc:
            line = exc.line if isinstance(exc, pages.PageError) else 1
            reported = self._note(docname, path)
            reported.findings = [rules.not_executed(line, str(exc), "Mend the page.")]
            self._exclude(path)
            return None

    def _leave_alone(self, page: Page) -> None:
        """Report a page that is not executed, and keep myst-nb from executing it unseen."""
        allowed = self._app.config.workercheck_allow_unexecuted
        if not any(fnmatch.fnmatch(page.docname, pattern) for pattern in allowed):
            self.records[page.docname].report.findings = [
                rules.not_executed(
                    page.cells[0].line,
                    str(page.why_not_executed),
                    "Let it be executed, or name it in workercheck_allow_unexecuted.",
                )
            ]
        self._exclude(page.path)

    def _exclude(self, path: Path) -> None:
        """Keep myst-nb from executing a page unseen."""
        config = self._env.mystnb_config
        self._env.mystnb_config = config.copy(
            execution_excludepatterns=[
                *config.execution_excludepatterns,
                glob.escape(path.as_posix()),
            ]
        )

    def _run(self, to_run: list[Page]) -> None:
        app = self._app
        asked = app.config.workercheck_jobs or (app.parallel if app.parallel > 1 else 0)
        # One more than cores: a page waits for a quarter of its time.
        jobs = min(asked or schedule.cores() + 1, len(to_run))
        known = self._cache.seconds()
        spent: dict[str, float] = {}
        progress = Progress(to_run, jobs, known, app.verbosity)

        def finished(run: Run) -> None:
            spent[run.page.docname] = run.seconds
            reported = self._take(run, cached=False)
            if not reported.unexpected:
                self._cache.store(run)
            failures = len(reported.unexpected)
            progress.finished(run, f"FAILED ({failures})" if failures else "ok")

        timeout = app.config.workercheck_timeout
        try:
            run_pages(
                [
                    page.with_timeout(timeout) if timeout else page
                    for page in schedule.order(to_run, known)
                ],
                jobs=jobs,
                has_failed=rules.has_failed,
                finished=finished,
                progress=progress.underway,
            )
        except OSError as exc:
            raise files.unwritable(exc) from exc
        finally:
            progress.close()
        self._cache.remember_seconds(spent)
        self._cache.prune()
        if self._cache.lost:
            LOGGER.info(
                "workercheck: not kept for the next build: %s (%s)",
                ", ".join(self._cache.lost),
                self._cache.why_lost,
            )

    def _take(self, run: Run, *, cached: bool) -> PageReport:
        """Report what became of a page's run, and have myst-nb render that very run."""
        record = self.records[run.page.docname]
        judge(record.report, run)
        record.report.cached = cached
        record.sources = run.sources
        try:
            self.handover.give(run)
        except OSError as exc:
            raise files.unwritable(exc) from exc
        return record.report


def judge(reported: PageReport, run: Run) -> None:
    """Fill in a page's report what its run tells."""
    reported.executed = True
    reported.seconds = run.seconds
    try:
        history = History(run.page, run.events)
        reported.executors = history.executors()
        reported.started = history.workers()
        reported.workers = sum(reported.started.values())
        provenance.describe(reported, run.page, history)
        reported.findings = rules.judge(history)
    except Exception as exc:  # it must not end the build, nor pass the page
        LOGGER.debug("workercheck: %s", run.page.docname, exc_info=True)
        reported.findings = [
            remains.not_watched(
                f"its evidence could not be judged ({type(exc).__name__}: {exc})",
                "Report it to workercheck, with the page and what `sphinx-build -vv` says.",
            )
        ]


def _passes(run: Run) -> bool:
    """Tell whether a kept run is still good under the page as it is now."""
    try:
        return all(f.expected for f in rules.judge(History(run.page, run.events)))
    except Exception:
        return False
