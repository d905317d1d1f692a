"""What a build publishes of its pages' runs: at their feet, on a page of its own, as a file."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workercheck.fronts.sphinx import domain, files
from workercheck.fronts.sphinx.domain import PageRecord
from workercheck.report import gate, provenance
from workercheck.report import record as report
from workercheck.report.record import PageReport, Report
from workercheck.run.environment import Environment

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_WITH_PROVENANCE = ("html", "dirhtml")
"""The builders whose pages say where they come from: they have a file for each page."""


class SiteReport:
    """The report of one build.

    Parameters
    ----------
    app
        The build.
    environment
        What its pages run with.
    new
        What the build knows of the pages that it has read itself, by docname.
    """

    def __init__(
        self, app: Sphinx, environment: Environment, new: Mapping[str, PageRecord]
    ) -> None:
        self._app = app
        self._environment: dict[str, Any] = {
            "python": environment.python,
            "start_method": environment.start_method,
            "packages": environment.packages,
            "key": environment.key,
        }
        self._new = new

    @property
    def is_shown(self) -> bool:
        """Whether the report is part of what the builder makes."""
        return self._app.builder.name in _WITH_PROVENANCE

    def remove(self) -> None:
        """Remove the report of an earlier build."""
        outdir = Path(self._app.outdir)
        (outdir / report.FILE).unlink(missing_ok=True)
        if self.is_shown:
            for file in files.outputs(self._app, [provenance.REPORT]):
                (outdir / file).unlink(missing_ok=True)

    def add_to_page(self, pagename: str, context: dict[str, Any]) -> None:
        """Put its provenance at the foot of a page, and the execution report on its own page.

        Parameters
        ----------
        pagename, context
            As Sphinx's ``html-page-context`` has them.
        """
        if not self.is_shown:
            return
        pathto = context["pathto"]
        if pagename == provenance.REPORT:
            context["body"] = provenance.execution_report(
                Report(self._environment, self._pages(), {}),
                pathto,
                pathto(report.FILE.as_posix(), resource=True),
            )
        if (page := self._page(pagename)) is not None:
            context["body"] += provenance.foot(
                page,
                self._environment,
                self._app.config.workercheck_packages,
                pathto(provenance.REPORT),
            )

    def whole(self) -> Report:
        """Return the report, tied to the files that the build has written."""
        pages = self._pages()
        written = files.outputs(self._app, [page.docname for page in pages])
        return Report(
            environment=self._environment,
            pages=pages,
            site=gate.fingerprint(Path(self._app.outdir), [*written, Path(gate.BUILDINFO)]),
        )

    def _pages(self) -> list[PageReport]:
        known = domain.of(self._app.env)
        docnames = known.records.keys() | self._new.keys() | known.findings.keys()
        found = (self._page(docname) for docname in sorted(docnames))
        return [page for page in found if page is not None]

    def _page(self, docname: str) -> PageReport | None:
        known = domain.of(self._app.env)
        record = self._new.get(docname) or known.records.get(docname)
        findings = known.findings.get(docname, [])
        if record is not None:
            return dc.replace(record.report, findings=[*record.report.findings, *findings])
        if not findings:
            return None
        path = Path(self._app.env.doc2path(docname))
        return PageReport(
            docname, files.source(self._app, path), executed=False, findings=[*findings]
        )
