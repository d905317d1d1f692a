"""The Sphinx extension: which event calls which room, in the order in which Sphinx emits them."""

from __future__ import annotations

import dataclasses as dc
import fnmatch
import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from docutils import nodes
from myst_nb.core.config import NbParserConfig
from myst_nb.core.read import UnexpectedCellDirective
from myst_parser.config.main import MdParserConfig
from sphinx.errors import ConfigError, SphinxError
from sphinx.util import logging

from workercheck import __version__
from workercheck.fronts.sphinx import read_page as pages
from workercheck.fronts.sphinx.handover import Handover
from workercheck.fronts.sphinx.progress import Progress
from workercheck.judge import remains, rules
from workercheck.judge.history import History
from workercheck.report import gate, provenance
from workercheck.report import record as report
from workercheck.report.record import PageReport, Report
from workercheck.run import schedule
from workercheck.run.page import Page
from workercheck.run.side_by_side import Run, run_pages
from workercheck.run.store import PageCache, environment, modules, unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

    class _Environment(BuildEnvironment):
        """The attributes that myst-nb and this extension add."""

        myst_config: MdParserConfig
        mystnb_config: NbParserConfig
        nb_metadata: dict[str, dict[str, Any]]
        workercheck_key: str
        workercheck_modules: dict[str, dict[str, str]]
        workercheck_pages: dict[str, PageReport]
        workercheck_unconverted: dict[str, list[int]]


LOGGER = logging.getLogger(__name__)

_TAKEN_OVER = ("auto", "force", "cache")
"""The execution modes in which this extension runs the pages, and myst-nb finds them cached."""

_WITH_PROVENANCE = ("html", "dirhtml")
"""The builders whose pages say where they come from: they have a file for each page."""


class UnconvertedCell(UnexpectedCellDirective):
    """A ``code-cell`` that reached the Markdown parser: nobody executes it."""

    def run(self) -> list[nodes.Node]:
        """Remember the line; myst-nb warns."""
        env = cast("_Environment", self.state.document.settings.env)
        env.workercheck_unconverted.setdefault(env.docname, []).append(self.lineno)
        return super().run()  # type: ignore[no-untyped-call, no-any-return]


class Check:
    """One build, checked."""

    def __init__(self) -> None:
        self.environment = environment()
        self.pages: dict[str, Page] = {}
        """The pages with code cells that this build has read, by docname."""

    def on_builder_inited(self, app: Sphinx) -> None:
        """Point myst-nb to the cache of this environment; it executes nothing itself."""
        env = cast("_Environment", app.env)
        if not hasattr(env, "workercheck_pages"):
            env.workercheck_pages = {}
            env.workercheck_unconverted = {}
            env.workercheck_modules = {}
            env.workercheck_key = ""
        self.nb_config = env.mystnb_config
        self.cache = PageCache(
            Path(self.nb_config.execution_cache_path) / "workercheck", self.environment.key
        )
        if self.nb_config.execution_mode in _TAKEN_OVER:
            env.mystnb_config = self.nb_config.copy(execution_mode="cache")
        for name in app.config.workercheck_packages:
            if name.lower().replace("_", "-") not in self.environment.packages:
                raise ConfigError(
                    f"workercheck_packages in conf.py has {name!r}, which is not installed where "
                    "sphinx-build runs. Install it, or take it out."
                )
        try:
            self.handover = Handover(Path(app.doctreedir) / "workercheck")
        except OSError as exc:
            raise _unwritable(exc) from exc
        # An old report must not be taken for this build's, should this build not finish.
        (Path(app.outdir) / report.FILE).unlink(missing_ok=True)
        if app.builder.name in _WITH_PROVENANCE:
            for file in _outputs(app, [provenance.REPORT]):
                (Path(app.outdir) / file).unlink(missing_ok=True)

    def on_env_get_outdated(
        self, app: Sphinx, env: _Environment, added: set[str], changed: set[str], removed: set[str]
    ) -> Sequence[str]:
        """Read again what failed, and everything when the environment is another one."""
        known = env.workercheck_pages
        for docname in removed:
            known.pop(docname, None)
        same = env.workercheck_key == self.environment.key
        env.workercheck_key = self.environment.key
        if self.handover.interrupted and env.found_docs - added:
            # Its doctrees, or its pages, may be there in part, or be another environment's.
            LOGGER.info("workercheck: the last build did not finish; every page is read again")
            return list(env.found_docs)
        force = self.nb_config.execution_mode == "force"
        return [
            name
            for name, page in known.items()
            if page.unexpected
            or force
            or not same
            or not unchanged(env.workercheck_modules.get(name, {}))
        ]

    def on_env_before_read_docs(self, app: Sphinx, env: _Environment, docnames: list[str]) -> None:
        """Execute the pages that are about to be read, unless the cache has them."""
        to_run = []
        for docname in docnames:
            env.workercheck_pages.pop(docname, None)
            env.workercheck_modules.pop(docname, None)
            page = self._read(app, env, docname)
            if page is None:
                continue
            self.pages[docname] = page
            reported = PageReport(docname, _source(app, page.path), executed=False)
            env.workercheck_pages[docname] = reported
            if page.why_not_executed is not None:
                self._leave_alone(app, env, page, reported)
                continue
            run = self.cache.load(page)
            if run is not None and _passes(run):
                self._take(env, run, cached=True)
            else:
                to_run.append(page)
        if self.cache.damaged:
            LOGGER.info(
                "workercheck: dropped what was kept of %s: it is damaged",
                ", ".join(self.cache.damaged),
            )
        if to_run:
            self._execute(app, env, to_run)
        if any(page.unexpected for page in env.workercheck_pages.values()):
            app.statuscode = 1

    def _read(self, app: Sphinx, env: _Environment, docname: str) -> Page | None:
        path = Path(env.doc2path(docname))
        if app.registry.source_suffix.get(path.suffix) != "myst-nb" and not any(
            path.name.endswith(suffix) for suffix in self.nb_config.custom_formats
        ):
            return None
        try:
            text = path.read_text(encoding="utf-8-sig")
            return pages.read(docname, path, text, env.myst_config, self.nb_config)
        except (OSError, UnicodeDecodeError, pages.PageError) as exc:
            line = exc.line if isinstance(exc, pages.PageError) else 1
            env.workercheck_pages[docname] = PageReport(
                docname,
                _source(app, path),
                executed=False,
                findings=[rules.not_executed(line, str(exc), "Mend the page.")],
            )
            _exclude(env, path)
            return None

    def _leave_alone(
        self, app: Sphinx, env: _Environment, page: Page, reported: PageReport
    ) -> None:
        """Report a page that is not executed, and keep myst-nb from executing it unseen."""
        allowed = app.config.workercheck_allow_unexecuted
        if not any(fnmatch.fnmatch(page.docname, pattern) for pattern in allowed):
            reported.findings = [
                rules.not_executed(
                    page.cells[0].line,
                    str(page.why_not_executed),
                    "Let it be executed, or name it in workercheck_allow_unexecuted.",
                )
            ]
        _exclude(env, page.path)

    def _execute(self, app: Sphinx, env: _Environment, to_run: list[Page]) -> None:
        asked = app.config.workercheck_jobs or (app.parallel if app.parallel > 1 else 0)
        # One more than cores: a page waits for a quarter of its time.
        jobs = min(asked or schedule.cores() + 1, len(to_run))
        known = self.cache.seconds()
        spent: dict[str, float] = {}
        progress = Progress(to_run, jobs, known, app.verbosity)

        def finished(run: Run) -> None:
            spent[run.page.docname] = run.seconds
            reported = self._take(env, run, cached=False)
            if not reported.unexpected:
                self.cache.store(run)
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
            raise _unwritable(exc) from exc
        finally:
            progress.close()
        self.cache.remember_seconds(spent)
        self.cache.prune()
        if self.cache.lost:
            LOGGER.info(
                "workercheck: not kept for the next build: %s (%s)",
                ", ".join(self.cache.lost),
                self.cache.why_lost,
            )

    def _take(self, env: _Environment, run: Run, *, cached: bool) -> PageReport:
        """Report what became of a page's run, and have myst-nb render that very run."""
        reported = env.workercheck_pages[run.page.docname]
        reported.executed = True
        reported.cached = cached
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
        env.workercheck_modules[run.page.docname] = modules(run.events)
        try:
            self.handover.give(run)
        except OSError as exc:
            raise _unwritable(exc) from exc
        return reported

    def on_source_read(self, app: Sphinx, docname: str, content: list[str]) -> None:
        """Point myst-nb to the run of the page that it is about to read."""
        env = cast("_Environment", app.env)
        env.mystnb_config = env.mystnb_config.copy(
            execution_cache_path=str(self.handover.folder(docname))
        )

    def on_env_purge_doc(self, app: Sphinx, env: _Environment, docname: str) -> None:
        """Forget the cells that were not converted of a page that is read again."""
        env.workercheck_unconverted.pop(docname, None)

    def on_env_merge_info(
        self, app: Sphinx, env: _Environment, docnames: list[str], other: _Environment
    ) -> None:
        """Take over the cells that were not converted that a parallel reader met."""
        for docname in docnames:
            if docname in other.workercheck_unconverted:
                env.workercheck_unconverted[docname] = other.workercheck_unconverted[docname]

    def on_env_updated(self, app: Sphinx, env: _Environment) -> None:
        """Make sure that myst-nb rendered the runs that were watched, and knows their outcome."""
        for docname in self.pages:
            reported = env.workercheck_pages[docname]
            rendered = env.nb_metadata[docname].get("exec_data")
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
                rendered.update(
                    succeeded=False, error=worst.kind, traceback=report.line(reported, worst)
                )

    def on_html_page_context(
        self, app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object
    ) -> None:
        """Put the provenance at the foot of each page with code, and fill the execution report."""
        if app.builder.name not in _WITH_PROVENANCE:
            return
        env = cast("_Environment", app.env)
        pathto = context["pathto"]
        if pagename == provenance.REPORT:
            context["body"] = provenance.execution_report(
                Report(self._environment, self._pages(app, env), {}),
                pathto,
                pathto(report.FILE.as_posix(), resource=True),
            )
        if (page := self._page(app, env, pagename)) is not None:
            context["body"] += provenance.foot(
                page,
                self._environment,
                app.config.workercheck_packages,
                pathto(provenance.REPORT),
            )

    def on_html_collect_pages(self, app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Add the execution report to the site."""
        if app.builder.name in _WITH_PROVENANCE:
            yield provenance.REPORT, {"title": "Execution report", "body": ""}, "page.html"

    def on_build_finished(self, app: Sphinx, exception: Exception | None) -> None:
        """Write the report and print the summary."""
        if exception is not None:
            return
        found = self._report(app, cast("_Environment", app.env))
        found.write(Path(app.outdir))
        if found.verdict == "fail":
            LOGGER.error("%s", report.text(found))
            app.statuscode = 1
        elif found.pages:
            LOGGER.info("%s", report.text(found))
        self.handover.close()

    @property
    def _environment(self) -> dict[str, Any]:
        return {
            "python": self.environment.python,
            "start_method": self.environment.start_method,
            "packages": self.environment.packages,
            "key": self.environment.key,
        }

    def _pages(self, app: Sphinx, env: _Environment) -> list[PageReport]:
        docnames = sorted(env.workercheck_pages.keys() | env.workercheck_unconverted.keys())
        found = (self._page(app, env, docname) for docname in docnames)
        return [page for page in found if page is not None]

    def _page(self, app: Sphinx, env: _Environment, docname: str) -> PageReport | None:
        page = env.workercheck_pages.get(docname)
        lines = env.workercheck_unconverted.get(docname)
        if lines is None:
            return page
        if page is None:
            page = PageReport(docname, _source(app, Path(env.doc2path(docname))), executed=False)
        unconverted = [
            rules.not_executed(
                line,
                "a code-cell outside a notebook, or nested in another directive or a list",
                "Begin the page with a header that says file_format: mystnb, and put the cell "
                "at the page's top level.",
            )
            for line in lines
        ]
        return dc.replace(page, findings=[*page.findings, *unconverted])

    def _report(self, app: Sphinx, env: _Environment) -> Report:
        reported = self._pages(app, env)
        files = _outputs(app, [page.docname for page in reported])
        return Report(
            environment=self._environment,
            pages=reported,
            site=gate.fingerprint(Path(app.outdir), [*files, Path(gate.BUILDINFO)]),
        )


def _passes(run: Run) -> bool:
    """Tell whether a kept run is still good under the page as it is now."""
    try:
        return all(f.expected for f in rules.judge(History(run.page, run.events)))
    except Exception:
        return False


def _exclude(env: _Environment, path: Path) -> None:
    """Keep myst-nb from executing a page unseen."""
    env.mystnb_config = env.mystnb_config.copy(
        execution_excludepatterns=[
            *env.mystnb_config.execution_excludepatterns,
            glob.escape(path.as_posix()),
        ]
    )


def _unwritable(exc: OSError) -> SphinxError:
    where = f"{exc.filename}: " if exc.filename else ""
    return SphinxError(
        f"workercheck: {where}{exc.strerror or exc}. Make room there, or let it be written."
    )


def _outputs(app: Sphinx, docnames: Iterable[str]) -> list[Path]:
    """Return the files that pages are written to, relative to the output folder."""
    output = getattr(app.builder, "get_output_path", None) or getattr(
        app.builder, "get_outfilename", None
    )
    return [Path(output(name)).relative_to(app.outdir) for name in docnames] if output else []


def _source(app: Sphinx, path: Path) -> str:
    """Return the path that a person would type in the folder in which the build runs."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        srcdir = Path(app.srcdir).resolve()
        return (srcdir.name / path.resolve().relative_to(srcdir)).as_posix()


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register configuration values, the directive and the event handlers."""
    app.setup_extension("myst_nb")
    # "html": the values are part of .buildinfo, which so tells whether this extension was on.
    # 0: as many as Sphinx's -j says, else one more than there are cores; and what
    # nb_execution_timeout says.
    app.add_config_value("workercheck_jobs", 0, "html", int)
    app.add_config_value("workercheck_timeout", 0, "html", (int, float))
    app.add_config_value("workercheck_allow_unexecuted", [], "html", (list, tuple))
    app.add_config_value("workercheck_packages", [], "html", (list, tuple))
    app.add_directive("code-cell", UnconvertedCell, override=True)
    check = Check()
    app.connect("builder-inited", check.on_builder_inited, priority=900)
    app.connect("env-get-outdated", check.on_env_get_outdated)
    app.connect("env-before-read-docs", check.on_env_before_read_docs, priority=900)
    app.connect("source-read", check.on_source_read)
    app.connect("env-purge-doc", check.on_env_purge_doc)
    app.connect("env-merge-info", check.on_env_merge_info)
    app.connect("env-updated", check.on_env_updated)
    # After those who change the body of a page.
    app.connect("html-page-context", check.on_html_page_context, priority=900)
    app.connect("html-collect-pages", check.on_html_collect_pages)
    app.connect("build-finished", check.on_build_finished, priority=900)
    return {
        "version": __version__,
        "env_version": 2,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
