"""What a build publishes of its pages' runs: at their feet, on a page of its own, as a file."""

from __future__ import annotations

import dataclasses as dc
import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.errors import SphinxError

from workercheck.fronts.sphinx import domain, files
from workercheck.fronts.sphinx.domain import PageRecord
from workercheck.report import gate, provenance
from workercheck.report import record as report
from workercheck.report.record import PageReport, Report, ReportError
from workercheck.run.environment import Environment

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_WITH_PROVENANCE = ("html", "dirhtml")
"""The builders whose pages say where they come from: they have a file for each page."""

_ALLOWED = "as workercheck_allow_unexecuted in conf.py says"


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
        self._earlier = self._forget_earlier()
        """SHA-256 of what the last build wrote for pages with code, by path."""

    @property
    def is_shown(self) -> bool:
        """Whether the report is part of what the builder makes."""
        return self._app.builder.name in _WITH_PROVENANCE

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
                self._app.config.workercheck_packages,
                pathto(provenance.REPORT),
            )

    def whole(self, exception: BaseException | None) -> Report:
        """Return the report, tied to the files that the build has written.

        What an earlier build wrote for pages that are gone is removed, but for files that somebody
        has changed since.

        Parameters
        ----------
        exception
            What ended the build, None where nothing did.
        """
        pages = self._pages()
        outdir = Path(self._app.outdir)
        written = files.outputs(self._app, [page.docname for page in pages])
        site = gate.fingerprint(outdir, [*written, *files.extra(self._app), Path(gate.BUILDINFO)])
        left = self._earlier.keys() - site.keys()
        if exception is None:
            for name, digest in gate.fingerprint(outdir, map(Path, left)).items():
                if digest == self._earlier[name]:
                    (outdir / name).unlink()
        else:
            site |= {name: self._earlier[name] for name in left}
        return Report(
            environment=self._environment,
            pages=pages,
            site=site,
            unfinished=_in_words(exception) if exception is not None else "",
        )

    def _forget_earlier(self) -> dict[str, str]:
        """Remove the report of an earlier build, and return what it was tied to."""
        outdir = Path(self._app.outdir)
        try:
            known = report.read(outdir).site
        except ReportError:
            known = {}
        (outdir / report.FILE).unlink(missing_ok=True)
        if self.is_shown:
            for file in files.outputs(self._app, [provenance.REPORT])[:1]:
                (outdir / file).unlink(missing_ok=True)
        inside = {name for name in known if not {"..", "/"} & set(Path(name).parts)}
        return {name: known[name] for name in inside - {gate.BUILDINFO}}

    def _pages(self) -> list[PageReport]:
        known = domain.of(self._app.env)
        docnames = known.records.keys() | self._new.keys() | known.findings.keys()
        found = (self._page(docname) for docname in sorted(docnames))
        return [page for page in found if page is not None]

    def _page(self, docname: str) -> PageReport | None:
        known = domain.of(self._app.env)
        record = self._new.get(docname) or known.records.get(docname)
        findings = known.findings.get(docname, [])
        if record is None and not findings:
            return None
        if record is None:
            path = Path(self._app.env.doc2path(docname))
            page = PageReport(docname, files.source(self._app, path), executed=False)
        else:
            page = dc.replace(record.report, unchanged=docname not in self._new)
        allowed = self._app.config.workercheck_allow_unexecuted
        if any(fnmatch.fnmatch(docname, pattern) for pattern in allowed):
            page.why_not_executed = page.why_not_executed or _ALLOWED
            findings = [finding for finding in findings if finding.kind != "not-executed"]
        return dc.replace(page, findings=[*page.findings, *findings])


def _in_words(exception: BaseException) -> str:
    """Return an exception on one line; one of Sphinx's is a sentence by itself."""
    if isinstance(exception, KeyboardInterrupt):
        return "it was interrupted"
    text = "" if type(exception) is SphinxError else f"{type(exception).__name__}: "
    return " ".join(f"{text}{exception}".split())
