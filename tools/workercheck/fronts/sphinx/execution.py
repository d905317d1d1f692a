"""The pages that a build is about to read: run, or taken from the cache, and judged."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util import logging

from workercheck.fronts.sphinx import files
from workercheck.fronts.sphinx import read_page as pages
from workercheck.fronts.sphinx.domain import PageRecord
from workercheck.fronts.sphinx.handover import Handover, Rendition
from workercheck.fronts.sphinx.internals import myst_nb_of
from workercheck.fronts.sphinx.progress import Progress
from workercheck.judge import remains, rules
from workercheck.judge.finding import Finding
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
        myst_nb = myst_nb_of(app.env)
        self._md_config = myst_nb.myst_config
        self._nb_config = myst_nb.mystnb_config
        self._cache = PageCache(Path(self._nb_config.execution_cache_path) / "workercheck", key)
        self.records: dict[str, PageRecord] = {}
        """What this build knows of the pages that it is about to read, by docname."""
        self.handover = Handover(Path(app.doctreedir) / "workercheck")
        """Where the parser finds what each page is to show."""

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
            reported = self._note(docname, page.path)
            self.records[docname].force = page.force
            if page.why_not_executed is not None:
                reported.why_not_executed = page.why_not_executed
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

    def _note(self, docname: str, path: Path) -> PageReport:
        name = files.printable(docname)
        reported = PageReport(name, files.source(self._app, path), executed=False)
        self.records[docname] = PageRecord(reported)
        return reported

    def _read(self, docname: str) -> Page | None:
        """Read a page; what keeps it from being read is a finding."""
        app = self._app
        path = Path(app.env.doc2path(docname))
        if app.registry.source_suffix.get(path.suffix) != "myst-nb" and not any(
            path.name.endswith(suffix) for suffix in self._nb_config.custom_formats
        ):
            return None
        try:
            text = _text(docname, path, app.config.source_encoding)
        except pages.PageError as exc:
            self._refuse(docname, path, rules.not_executed(exc.line, str(exc), exc.hint))
            # Sphinx itself would end the build over it.
            app.env.found_docs.discard(docname)
            return None
        try:
            page = pages.read(docname, path, text, self._md_config, self._nb_config)
            if page is not None and page.why_not_executed is None:
                pages.check_kernel(page, text)
        except pages.NoKernelError as exc:
            self._refuse(docname, path, rules.no_kernel(exc.line, str(exc), exc.hint))
        except pages.PageError as exc:
            self._refuse(docname, path, rules.not_executed(exc.line, str(exc), exc.hint))
        else:
            return page
        return None

    def _refuse(self, docname: str, path: Path, finding: Finding) -> None:
        """Report a page that cannot be run."""
        self._note(docname, path).findings = [finding]
        self.handover.refused.add(docname)

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
        reported = record.report
        judge(reported, run)
        reported.cached = cached
        record.sources = run.sources
        error = reported.unexpected[0].kind if reported.unexpected else None
        ended = datetime.datetime.now(datetime.UTC)
        if reported.ended:
            ended = datetime.datetime.fromisoformat(reported.ended)
        rendition = Rendition(run.notebook, run.seconds, ended.timestamp(), error)
        try:
            self.handover.give(run.page.docname, rendition)
        except OSError as exc:
            raise files.unwritable(exc) from exc
        return reported


def _text(docname: str, path: Path, encoding: str) -> str:
    """Return what is in a page's file.

    Raises
    ------
    PageError
        If it cannot be read, or its name cannot be written.
    """
    try:
        docname.encode()
        return path.read_text(encoding=encoding)
    except UnicodeEncodeError:
        raise pages.PageError("the name of the file is not UTF-8", 0, "Rename it.") from None
    except UnicodeDecodeError as exc:
        way_out = "Save it as UTF-8, or say in source_encoding in conf.py how it is written."
        raise pages.PageError(f"the file is not {encoding} ({exc.reason})", 1, way_out) from exc
    except OSError as exc:
        raise pages.PageError(str(exc.strerror), 0, "Let the file be read.") from exc


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
