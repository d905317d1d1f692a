"""Where a page's outputs come from: a line at its foot, and the execution report of the site.

Both are HTML. `xml.etree` writes it, so that nothing from a page or a worker goes unescaped.
"""

from __future__ import annotations

import ast
import datetime
import functools
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

from workercheck.evidence import records as ev
from workercheck.judge.history import History
from workercheck.report import record as report
from workercheck.report.record import PageReport, Report
from workercheck.run.page import Page

REPORT = "workercheck/report"
"""Name of the execution report among the pages of the site, beside ``report.json``."""

# The names of pages and executors are long and without spaces: they break after a dot or a slash,
# or else anywhere, and on a phone a row is a block. With the report itself, for it may stand in any
# theme.
_STYLE = """
table.workercheck { font-size: 0.875em; table-layout: fixed; width: 100% }
table.workercheck :is(th, td) { padding: 0.25em 0.5em }
table.workercheck th:first-child { width: 20% }
table.workercheck th:nth-child(2) { width: 16% }
table.workercheck th:nth-child(4) { width: 7% }
table.workercheck th:nth-child(5) { width: 21% }
table.workercheck td { overflow-wrap: anywhere; white-space: normal }
table.workercheck p { margin: 0 }
@media (max-width: 48em) {
  table.workercheck :is(tbody, tr, td) { border: 0; display: block }
  table.workercheck thead { display: none }
  table.workercheck tr { padding: 0.5em 0 }
  table.workercheck td:empty { display: none }
  table.workercheck td:not(:first-child)::before { content: attr(data-head) ": " }
}
"""

_PARTS = re.compile(r"(?<=[./])(?=[^\W\d])")
"""Where the name of a page or an executor may break."""


def describe(reported: PageReport, page: Page, history: History) -> None:
    """Add to a page's report when it ran, and with what.

    Parameters
    ----------
    reported
        The report of the page's run, with its executors.
    page
        The page that ran.
    history
        What the evidence of its run tells, this build's or a cached one's.
    """
    for finished in history.of(ev.Finished)[-1:]:
        ended = datetime.datetime.fromtimestamp(finished.date, datetime.UTC)
        reported.ended = ended.strftime("%Y-%m-%dT%H:%M:%SZ")
    kernel = history.kernel
    reported.python = kernel.python if kernel is not None else ""
    # What is installed for another interpreter, nobody here can tell.
    if kernel is not None and kernel.executable == sys.executable:
        modules = {name.partition(".")[0] for name in [*_imports(page), *reported.executors]}
        reported.packages = _versions(filter(None, map(_distribution, modules)))


def _imports(page: Page) -> Iterator[str]:
    """Find the modules that the code of a page imports itself."""
    for cell in page.cells:
        for node in ast.walk(_parse(cell.source)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        # Only magics and shell commands need it, and it takes long to import.
        from IPython.core.inputtransformer2 import TransformerManager
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except (SyntaxError, ValueError):  # what the run of the cell has told already
        return ast.Module([], [])


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in sorted(names, key=str.lower)}


@functools.cache
def _distributions() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """Return the distributions of each module that can be imported.

    `importlib.metadata.packages_distributions` asks of each file whether it exists, and parses all
    metadata: that takes most of a second.
    """
    found: dict[str, list[importlib.metadata.Distribution]] = {}
    for distribution in importlib.metadata.distributions():
        told = distribution.read_text("top_level.txt")
        files = (distribution.read_text("RECORD") or "").splitlines()
        for module in {*told.split()} if told else {_module(line) for line in files}:
            found.setdefault(module, []).append(distribution)
    return found


def _module(recorded: str) -> str:
    """Return the module at the top that a line of a distribution's ``RECORD`` is of."""
    path = recorded.rpartition(",")[0].rpartition(",")[0].strip('"')
    name, inside, _ = path.partition("/")
    return name if inside else inspect.getmodulename(name) or ""


def _distribution(module: str) -> str | None:
    """Return the distribution that a module is from, None for the standard library's."""
    names = {found.metadata["Name"] for found in _distributions().get(module, ())}
    # A namespace that several share tells nothing.
    return names.pop() if len(names) == 1 else None


def foot(page: PageReport, named: Iterable[str], href: str) -> str:
    """Return the line at the foot of a page.

    It holds for the run that the page shows, so that it stays true while the page does.

    Parameters
    ----------
    page
        What became of the page.
    named
        Installed distributions to name, besides those that the page's code uses.
    href
        The address of the execution report, as seen from the page.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        If one of *named* is not installed.
    """
    box = Element("div", {"class": "workercheck"})
    SubElement(box, "hr", {"class": "docutils"})
    # Not <small>, which themes make paler than a link may be.
    text = SubElement(box, "p", style="font-size: smaller")
    text.text = f"{outcome(page)}. "
    if page.executed:
        text.text = "Ran on "
        time = SubElement(text, "time", datetime=page.ended)
        time.text = _moment(page.ended) + " UTC"
        ran_with = ", ".join(_ran_with(page, named))
        time.tail = f" in {page.seconds:.1f} s, with {ran_with}. {_work(page)} {outcome(page)}. "
    _link(text, f"{href}#{quote(_anchor(page))}", "Execution report")
    return tostring(box, encoding="unicode", method="html")


def _ran_with(page: PageReport, named: Iterable[str]) -> Iterator[str]:
    if page.packages is None:
        yield f"Python {page.python}" if page.python else "a kernel that nobody could watch"
        return
    yield f"Python {page.python}"
    yield from (f"{name} {version}" for name, version in (_versions(named) | page.packages).items())


def _work(page: PageReport) -> str:
    """Say who worked for a page, and how they were started where their executor does not tell."""
    workers = report.count(page.workers, "worker")
    if methods := [how for how in page.started if how not in page.executors]:
        workers += f", started by {', '.join(methods)}"
    if page.executors:
        return f"Its work went to {', '.join(page.executors)}: {workers}."
    return f"It started {workers}." if page.workers else "It started no workers."


def outcome(page: PageReport) -> str:
    """Say in a few words whether anything failed on a page."""
    failed = len(page.unexpected)
    expected = len(page.findings) - failed
    if failed:
        return report.count(failed, "failure") + (f", and {expected} expected" if expected else "")
    if expected:
        return (
            f"No worker errors except {expected} that {'was' if expected == 1 else 'were'} expected"
        )
    if page.why_not_executed:
        return f"Not executed, {page.why_not_executed}"
    return "No worker errors"


def execution_report(found: Report, href: Callable[[str], str], json_href: str) -> str:
    """Return the body of the page that tells what became of all pages.

    Parameters
    ----------
    found
        The report of the build.
    href
        Gives the address of a page, as seen from this one, by its docname.
    json_href
        The address of ``report.json``.
    """
    body = Element("section", id="execution-report")
    SubElement(body, "h1").text = "Execution report"
    SubElement(body, "style").text = _STYLE
    text = SubElement(body, "p")
    text.text = f"{report.summary(found)}. For programs: "
    _link(text, json_href, "report.json").tail = "."
    _table(
        body,
        ("Page", "Outcome", "Ran on (UTC)", "Took", "Executors", "Workers"),
        {
            _anchor(page): (
                (page.docname, href(page.docname)),
                outcome(page),
                _moment(page.ended) + (" (from the cache)" if page.cached else ""),
                f"{page.seconds:.1f} s" if page.executed else "",
                ", ".join(page.executors),
                ", ".join(f"{number} {how}" for how, number in page.started.items()) or "0",
            )
            for page in found.pages
        },
    )
    _findings(body, [page for page in found.pages if page.findings], href)
    _environment(body, found.environment)
    return tostring(body, encoding="unicode", method="html")


def _findings(body: Element, pages: Sequence[PageReport], href: Callable[[str], str]) -> None:
    section = _section(body, "Findings")
    if not pages:
        SubElement(section, "p").text = "None."
    for page in pages:
        _link(SubElement(section, "h3"), href(page.docname), page.docname)
        items = SubElement(section, "ul")
        for finding in page.findings:
            text = SubElement(SubElement(items, "li"), "p")
            verdict = SubElement(text, "strong")
            verdict.text = "Expected:" if finding.expected else "Failure:"
            verdict.tail = f" {report.line(page, finding)}"


def _environment(body: Element, environment: Mapping[str, Any]) -> None:
    section = _section(body, "Environment")
    packages = report.count(len(environment["packages"]), "package")
    SubElement(section, "p").text = (
        f"Python {environment['python']}, which starts worker processes by "
        f"{environment['start_method']}, with {packages}:"
    )
    _table(
        section,
        ("Package", "Version"),
        {f"package-{name}": (name, version) for name, version in environment["packages"].items()},
    )


def _section(parent: Element, title: str) -> Element:
    section = SubElement(parent, "section", id=title.lower())
    SubElement(section, "h2").text = title
    return section


def _table(
    parent: Element, head: Sequence[str], rows: Mapping[str, Sequence[str | tuple[str, str]]]
) -> None:
    """Add a table that no window clips; rows by id, links as pairs."""
    # As blocks on a phone its parts would no longer be one to a screen reader.
    table = SubElement(parent, "table", {"class": "docutils workercheck", "role": "table"})
    header = SubElement(SubElement(table, "thead"), "tr")
    for text in head:
        SubElement(header, "th", {"class": "head"}).text = text
    body = SubElement(table, "tbody", role="rowgroup")
    for anchor, cells in rows.items():
        row = SubElement(body, "tr", id=anchor, role="row")
        for title, cell in zip(head, cells, strict=True):
            place = SubElement(row, "td", {"data-head": title, "role": "cell"})
            text, href = (cell, "") if isinstance(cell, str) else cell
            first, *rest = _PARTS.split(text)
            holder = _link(place, href, "") if href else place
            holder.text = first
            for part in rest:
                SubElement(holder, "wbr").tail = part


def _link(parent: Element, href: str, text: str) -> Element:
    link = SubElement(parent, "a", {"class": "reference internal", "href": href})
    link.text = text
    return link


def _moment(iso: str) -> str:
    return iso.replace("T", " ")[:16]


def _anchor(page: PageReport) -> str:
    return f"page-{page.docname}"
