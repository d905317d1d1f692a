"""The Sphinx extension: which event calls which room, in the order in which Sphinx emits them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util import logging

from workercheck import __version__
from workercheck.fronts.sphinx import domain, files, settings
from workercheck.fronts.sphinx.domain import WorkercheckDomain
from workercheck.fronts.sphinx.execution import Execution
from workercheck.fronts.sphinx.internals import (
    OUTPUT_FOLDER,
    UnexpectedCellDirective,
    building_nothing,
    built_within,
)
from workercheck.fronts.sphinx.interruption import sigterm_like_sigint
from workercheck.fronts.sphinx.parser import Parser
from workercheck.fronts.sphinx.site_report import SiteReport
from workercheck.judge import rules
from workercheck.report import provenance
from workercheck.report import record as report
from workercheck.run.environment import environment
from workercheck.run.sources import unchanged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

LOGGER = logging.getLogger(__name__)


class UnconvertedCell(UnexpectedCellDirective):
    """A ``code-cell`` that reached the Markdown parser: nobody executes it."""

    def run(self) -> list[nodes.Node]:
        """Report it; myst-nb warns."""
        env = self.state.document.settings.env
        domain.of(env).add(env.docname, rules.unconverted_cell(self.lineno))
        return super().run()  # type: ignore[no-untyped-call, no-any-return]


class Check:
    """One build, checked."""

    def __init__(self, source: Path) -> None:
        self.environment = environment(source)

    def on_config_inited(self, app: Sphinx, config: Config) -> None:
        """Refuse what cannot be obeyed, and keep the notebooks that myst-nb writes out of the site.

        They are copies of pages, and stay when a page is renamed or deleted.
        """
        if not settings.check(config, self.environment.packages):
            building_nothing(app, 2)
            # That of an earlier build must not be taken for this one's.
            (Path(app.outdir) / report.FILE).unlink(missing_ok=True)
            return
        written = Path(app.outdir).parent / OUTPUT_FOLDER
        if written.is_relative_to(app.srcdir):
            config.exclude_patterns.append(written.relative_to(app.srcdir).as_posix())

    def on_builder_inited(self, app: Sphinx) -> None:
        """Get ready; the report of an earlier build must not be taken for this one's."""
        try:
            self.execution = Execution(app, self.environment.key)
        except OSError as exc:
            raise files.unwritable(exc) from exc
        known = domain.of(app.env)
        known.handover, known.environment = self.execution.handover, self.environment
        self.report = SiteReport(app, self.environment, self.execution.records)
        built_within(app, lambda: self._telling_of_interruption(app))

    def on_env_get_outdated(
        self,
        app: Sphinx,
        env: BuildEnvironment,
        added: set[str],
        changed: set[str],
        removed: set[str],
    ) -> Sequence[str]:
        """Read again what failed, and everything when the environment is another one."""
        known = domain.of(env)
        same, known.key = known.key == self.environment.key, self.environment.key
        if self.execution.handover.interrupted and env.found_docs - added:
            # Its doctrees, or its pages, may be there in part, or be another environment's.
            LOGGER.info("workercheck: the last build did not finish; every page is read again")
            return list(env.found_docs)
        return [
            name
            for name, record in known.records.items()
            if record.report.unexpected
            or name in known.findings
            or record.force
            or not same
            or not unchanged(record.sources)
        ]

    def on_env_before_read_docs(
        self, app: Sphinx, env: BuildEnvironment, docnames: list[str]
    ) -> None:
        """Execute the pages that are about to be read, unless the cache has them."""
        self.execution.execute(docnames)
        # Those whose file cannot be read, Sphinx must not try.
        docnames[:] = [name for name in docnames if name in env.found_docs]

    def on_env_updated(self, app: Sphinx, env: BuildEnvironment) -> None:
        """Keep what became of the pages that were read."""
        domain.of(env).records.update(self.execution.records)

    def on_html_page_context(
        self, app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object
    ) -> None:
        """Put the provenance at the foot of each page with code, and fill the execution report."""
        self.report.add_to_page(pagename, context)

    def on_html_collect_pages(self, app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Add the execution report to the site."""
        if self.report.is_shown:
            yield provenance.REPORT, {"title": "Execution report", "body": ""}, "page.html"

    def on_build_finished(self, app: Sphinx, exception: Exception | None) -> None:
        """Write the report and print the summary, however far the build has come."""
        self._tell(app, exception)
        if exception is None:
            self.execution.handover.close()

    @contextlib.contextmanager
    def _telling_of_interruption(self, app: Sphinx) -> Iterator[None]:
        """Tell what is known of a build that somebody stops, wherever it is."""
        with sigterm_like_sigint():
            try:
                yield
            except KeyboardInterrupt as exc:
                self._tell(app, exc)
                raise

    def _tell(self, app: Sphinx, exception: BaseException | None) -> None:
        found = self.report.whole(exception)
        if found.verdict == "fail":
            LOGGER.error("%s", report.text(found))
            app.statuscode = 1
        elif found.pages:
            LOGGER.info("%s", report.text(found))
        try:
            found.write(Path(app.outdir))
        except OSError as exc:
            raise files.unwritable(exc) from exc


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register settings, the domain, the parser, the directive and the event handlers."""
    app.setup_extension("myst_nb")
    settings.register(app)
    app.add_domain(WorkercheckDomain)
    app.add_source_parser(Parser, override=True)
    app.add_directive("code-cell", UnconvertedCell, override=True)
    check = Check(Path(app.srcdir))
    # Before myst-nb uses what may be wrong.
    app.connect("config-inited", check.on_config_inited, priority=400)
    app.connect("builder-inited", check.on_builder_inited, priority=900)
    app.connect("env-get-outdated", check.on_env_get_outdated)
    app.connect("env-before-read-docs", check.on_env_before_read_docs, priority=900)
    app.connect("env-updated", check.on_env_updated)
    # After those who change the body of a page.
    app.connect("html-page-context", check.on_html_page_context, priority=900)
    app.connect("html-collect-pages", check.on_html_collect_pages)
    app.connect("build-finished", check.on_build_finished, priority=900)
    return {
        "version": __version__,
        "env_version": 3,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
