"""The pages that a build is about to read: run, or taken from the cache, and judged."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util import logging

from workercheck.fronts.sphinx import files
from workercheck.fronts.sphinx.domain import PageRecord
from workercheck.fronts.sphinx.handover import Handover, Rendition
from workercheck.fronts.sphinx.internals import myst_nb_of, text_as_read
from workercheck.fronts.sphinx.read_page import read
from workercheck.judge import rules
from workercheck.judge.finding import Finding
from workercheck.report import execution
from workercheck.report.progress import Screen, is_terminal
from workercheck.report.record import PageReport
from workercheck.run import reading, schedule
from workercheck.run.page import Page
from workercheck.run.reading import NoKernelError, PageError
from workercheck.run.side_by_side import Run
from workercheck.run.store import PageCache

if TYPE_CHECKING:
    from sphinx.application import Sphinx

    from workercheck.run.over_dask import Cluster

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
        self._cache = PageCache(_store(app, self._nb_config.execution_cache_path), key)
        self.records: dict[str, PageRecord] = {}
        """What this build knows of the pages that it is about to read, by docname."""
        self.handover = Handover(Path(app.doctreedir) / "workercheck")
        """Where the parser finds what each page is to show."""

    def execute(
        self,
        docnames: Iterable[str],
        shard: tuple[int, int] = (1, 1),
        cluster: Cluster | None = None,
    ) -> list[str]:
        """Have a run of each page that has code cells, or a finding that says why not.

        Parameters
        ----------
        docnames
            Pages, with code cells or without.
        shard
            Which part of the pages is executed, of how many; the records are of that part.
        cluster
            What executes them, None for this machine.

        Returns
        -------
        list of str
            The pages with code cells of all parts.

        Raises
        ------
        SphinxError
            If the folders of the build cannot be written.
        """
        pages = []
        for docname in docnames:
            page = self._read(docname)
            if page is None:
                continue
            reported = self._note(docname, page.path)
            self.records[docname].force = page.force
            if page.why_not_executed is not None:
                reported.why_not_executed = page.why_not_executed
            else:
                pages.append(page)
        everything = sorted(self.records)
        mine = schedule.divide(everything, shard[1], self._cache.seconds())[shard[0] - 1]
        for docname in set(everything) - mine:
            del self.records[docname]
        pages = [page for page in pages if page.docname in mine]
        app = self._app
        asked = app.config.workercheck_jobs or (app.parallel if app.parallel > 1 else 0)
        timeout = app.config.workercheck_timeout
        # With -v, other messages would cut a line that is drawn anew.
        screen = Screen(_write, is_live=app.verbosity < 1 and is_terminal(sys.stdout))
        try:
            execution.Execution(
                self._cache,
                asked if cluster is None else cluster.slots,
                screen,
                None if cluster is None else cluster.run_pages,
            ).execute(
                [page.with_timeout(timeout) for page in pages] if timeout else pages,
                {docname: record.report for docname, record in self.records.items()},
                self._take,
            )
        except OSError as exc:
            raise files.unwritable(exc) from exc
        return everything

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
            way_out = "Save it as UTF-8, or say in source_encoding in conf.py how it is written."
            text = reading.text_of(docname, path, app.config.source_encoding, way_out)
        except PageError as exc:
            self._refuse(docname, path, rules.not_executed(exc.line, str(exc), exc.hint))
            # Sphinx itself would end the build over it.
            app.env.found_docs.discard(docname)
            return None
        text = text_as_read(app, docname, text)
        try:
            page = read(docname, path, text, self._md_config, self._nb_config)
            if page is not None and page.why_not_executed is None:
                reading.check_kernel(page, text)
        except NoKernelError as exc:
            self._refuse(docname, path, rules.no_kernel(exc.line, str(exc), exc.hint))
        except PageError as exc:
            self._refuse(docname, path, rules.not_executed(exc.line, str(exc), exc.hint))
        else:
            return page
        return None

    def _refuse(self, docname: str, path: Path, finding: Finding) -> None:
        """Report a page that cannot be run."""
        self._note(docname, path).findings = [finding]
        self.handover.refused.add(docname)

    def _take(self, run: Run) -> None:
        """Have myst-nb render the very run that was judged."""
        record = self.records[run.page.docname]
        record.sources = run.sources
        reported = record.report
        error = reported.unexpected[0].kind if reported.unexpected else None
        ended = datetime.datetime.now(datetime.UTC)
        if reported.ended:
            ended = datetime.datetime.fromisoformat(reported.ended)
        rendition = Rendition(run.notebook, run.seconds, ended.timestamp(), error)
        self.handover.give(run.page.docname, rendition)


def _store(app: Sphinx, cache_of_myst_nb: str) -> Path:
    """Return the folder of kept runs; a person who types a path starts from where he is."""
    asked: str = app.config.workercheck_store
    if not asked:
        return Path(cache_of_myst_nb) / "workercheck"
    is_typed = "workercheck_store" in app.config.overrides
    return (Path.cwd() if is_typed else Path(app.confdir)) / asked


def _write(text: str) -> None:
    LOGGER.info("%s", text, nonl=True)
