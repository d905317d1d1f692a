"""The findings of a build, for people and machines. Standard library only: the gate reads it."""

from __future__ import annotations

import dataclasses as dc
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from workercheck.judge.finding import FINDING_KINDS, Finding

SCHEMA = 1
FILE = Path("workercheck") / "report.json"


class ReportError(Exception):
    """The file is no report that can be trusted; the message says why."""


@dc.dataclass(slots=True)
class PageReport:
    """What became of one page with code cells."""

    docname: str
    source: str
    """Path of the source, relative to the folder in which the build ran."""
    executed: bool
    """Whether the outputs are of a watched run, this build's or a cached one."""
    cached: bool = False
    seconds: float = 0.0
    executors: list[str] = dc.field(default_factory=list)
    workers: int = 0
    started: dict[str, int] = dc.field(default_factory=dict)
    """The workers by how they were started: a start method, ``loky``, ``dask`` …"""
    ended: str = ""
    """When the run was over: UTC, ISO 8601; empty where there was none."""
    python: str = ""
    """Version of the interpreter in the page's kernel, empty where it is not known."""
    packages: dict[str, str] | None = None
    """Versions of what the page's code imports and works with, None where they are not known."""
    unchanged: bool = False
    """Whether the build has left the page as an earlier one made it."""
    why_not_executed: str = ""
    """By whose word it is not executed; empty where it is, or where it is an accident."""
    findings: list[Finding] = dc.field(default_factory=list)

    @property
    def unexpected(self) -> list[Finding]:
        """The findings that make the page red."""
        return [finding for finding in self.findings if not finding.expected]

    @property
    def verdict(self) -> str:
        """``pass`` or ``fail``."""
        return "fail" if self.unexpected else "pass"


@dc.dataclass(slots=True)
class Shard:
    """The part of a project's pages that a report is about."""

    number: int
    """From 1 on."""
    of: int
    """How many shards there are."""
    docnames: list[str]
    """All pages with code cells, those of the other shards included."""

    @property
    def name(self) -> str:
        """As ``--shard`` has it."""
        return f"{self.number}/{self.of}"


@dc.dataclass(slots=True)
class Report:
    """What became of a build."""

    environment: dict[str, Any]
    """``python``, ``start_method``, ``packages``, ``key``."""
    pages: list[PageReport]
    site: dict[str, str]
    """SHA-256 of the files that tie the report to its build, by path in OUTDIR."""
    shard: Shard | None = None
    """Of which part of the pages it tells, None where it tells of all."""
    of_command: bool = False
    """Whether the pages are the files and tests of a command that handed work out."""
    unfinished: str = ""
    """What ended the build before its time; empty where nothing did."""
    was_read: bool = False
    """Whether the pages were read only, and nothing was to run."""

    @property
    def verdict(self) -> str:
        """``pass`` or ``fail``."""
        failed = self.unfinished or any(page.unexpected for page in self.pages)
        return "fail" if failed else "pass"

    def to_json(self) -> str:
        """Return the report as ``report.json`` holds it."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "verdict": self.verdict,
                "environment": self.environment,
                "pages": [_page_to_dict(page) for page in self.pages],
                "site": self.site,
                "unfinished": self.unfinished,
                "shard": dc.asdict(self.shard) if self.shard is not None else None,
            },
            indent=1,
        )

    def write(self, outdir: Path) -> None:
        """Write ``OUTDIR/workercheck/report.json``, whole or not at all.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        path = outdir / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.to_json() + "\n")
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _page_to_dict(page: PageReport) -> dict[str, Any]:
    return {
        "docname": page.docname,
        "source": page.source,
        "verdict": page.verdict,
        "executed": page.executed,
        "cached": page.cached,
        "seconds": round(page.seconds, 3),
        "executors": page.executors,
        "workers": page.workers,
        "started": page.started,
        "ended": page.ended,
        "python": page.python,
        "packages": page.packages,
        "unchanged": page.unchanged,
        "why_not_executed": page.why_not_executed,
        "findings": [dc.asdict(finding) for finding in page.findings],
    }


def read(outdir: Path) -> Report:
    """Read a build's report.

    Raises
    ------
    ReportError
        If there is none, or it is truncated, of another schema or contradicts itself.
    """
    path = outdir / FILE
    try:
        return read_file(path)
    except OSError as exc:
        raise ReportError(
            f"{path}: no report ({exc.strerror}). Is workercheck in the extensions of conf.py?"
        ) from exc


def read_file(path: Path) -> Report:
    """Read a report from its file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ReportError
        If it is truncated, of another schema or contradicts itself.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ReportError(f"{path}: the report is truncated or damaged ({exc}).") from exc
    try:
        if data["schema"] != SCHEMA:
            raise ReportError(f"{path}: schema {data['schema']!r}, this gate reads {SCHEMA}.")
        report = Report(
            environment=dict(data["environment"]),
            pages=[_page_from_dict(page) for page in data["pages"]],
            site={str(k): str(v) for k, v in data["site"].items()},
            unfinished=str(data["unfinished"]),
            shard=_shard_from_dict(data["shard"]),
        )
        if data["verdict"] != report.verdict:
            raise ReportError(
                f"{path}: the report says {data['verdict']!r}, but its findings say "
                f"{report.verdict!r}."
            )
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ReportError(f"{path}: the report is damaged ({type(exc).__name__}: {exc}).") from exc
    return report


def _shard_from_dict(data: dict[str, Any] | None) -> Shard | None:
    if data is None:
        return None
    shard = Shard(int(data["number"]), int(data["of"]), [str(name) for name in data["docnames"]])
    if not 1 <= shard.number <= shard.of:
        raise ValueError(f"there is no shard {shard.name}")
    return shard


def _page_from_dict(data: dict[str, Any]) -> PageReport:
    data = dict(data)
    verdict = data.pop("verdict")
    findings = [Finding(**finding) for finding in data.pop("findings")]
    page = PageReport(**data, findings=findings)
    if unknown := {f.kind for f in findings} - set(FINDING_KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}")
    if verdict != page.verdict:
        raise ValueError(f"the verdict on {page.docname} contradicts its findings")
    return page


def line(page: PageReport, finding: Finding) -> str:
    """Return the one line that tells a person about a finding."""
    source = _on_one_line(page.source)
    place = f"{source}:{finding.line}" if finding.line else source
    hint = f" {finding.hint}" if finding.hint else ""
    return f"{place}: {finding.message}.{hint} [{finding.kind}]"


def _on_one_line(path: str) -> str:
    return path.replace("\n", "\\n")


def text(report: Report) -> str:
    """Return the summary for a terminal."""
    lines = [f"workercheck: {summary(report)}"]
    if report.unfinished:
        lines.append(f"the build did not finish: {report.unfinished}")
    for page in report.pages:
        lines += [line(page, finding) for finding in page.unexpected]
        if page.why_not_executed:
            lines.append(f"{_on_one_line(page.source)}: not executed, {page.why_not_executed}")
    return "\n".join(lines)


def summary(report: Report) -> str:
    """Return the counts, for one line."""
    failed = sum(bool(page.unexpected) for page in report.pages)
    expected = sum(f.expected for page in report.pages for f in page.findings)
    told = f" ({count(expected, 'failure')} expected)" if expected else ""
    if report.of_command:
        what = count(len(report.pages), "file or test", "files and tests")
        return f"{what} handed out work, {failed} failed{told}"
    if report.was_read:
        return f"{count(len(report.pages), 'file')} with code read, {failed} failed{told}"
    counts = {
        "unchanged": sum(page.unchanged for page in report.pages),
        "from the cache": sum(page.cached and not page.unchanged for page in report.pages),
        "not executed": sum(bool(page.why_not_executed) for page in report.pages),
        f"{'failure' if expected == 1 else 'failures'} expected": expected,
    }
    more = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    with_code = f"{count(len(report.pages), 'page')} with code, {failed} failed"
    return f"{with_code} ({more})" if more else with_code


def github(report: Report) -> str:
    """Return workflow commands that annotate the pages on GitHub."""

    def escape(value: str, more: str = "") -> str:
        value = value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        for character in more:
            value = value.replace(character, f"%{ord(character):02X}")
        return value

    return "\n".join(
        f"::{'notice' if finding.expected else 'error'} file={escape(page.source, ':,')}"
        f",line={max(finding.line, 1)},title=workercheck {finding.kind}"
        f"::{escape(finding.message + '. ' + (finding.hint or ''))}"
        for page in report.pages
        for finding in page.findings
    )


def junit(report: Report) -> str:
    """Return JUnit XML, one test case for each page."""
    suite = ElementTree.Element(
        "testsuite",
        name="workercheck",
        tests=str(len(report.pages)),
        failures=str(sum(bool(page.unexpected) for page in report.pages)),
        time=f"{sum(page.seconds for page in report.pages):.3f}",
    )
    for page in report.pages:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="workercheck",
            name=page.docname,
            file=page.source,
            time=f"{page.seconds:.3f}",
        )
        if page.unexpected:
            failure = ElementTree.SubElement(
                case,
                "failure",
                type=page.unexpected[0].kind,
                message=page.unexpected[0].message,
            )
            failure.text = "\n".join(line(page, finding) for finding in page.unexpected)
        elif not page.executed and not report.was_read:
            ElementTree.SubElement(
                case, "skipped", message=f"not executed, {page.why_not_executed}"
            )
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number and the noun, in the plural where it takes one."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
