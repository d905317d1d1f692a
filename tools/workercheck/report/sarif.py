"""The findings as SARIF 2.1.0, for the code scanning of GitHub and for editors."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from workercheck import __version__
from workercheck.judge.finding import MEANINGS, Finding
from workercheck.report.record import PageReport, Report

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(report: Report) -> str:
    """Return a SARIF log with one run: a rule for each kind, a result for each finding."""
    rules = [{"id": kind, "shortDescription": {"text": text}} for kind, text in MEANINGS.items()]
    driver = {"name": "workercheck", "version": __version__, "rules": rules}
    results = [_result(page, finding) for page in report.pages for finding in page.findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _result(page: PageReport, finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(page.source)}}
    if finding.line:
        place["region"] = {"startLine": finding.line}
    result: dict[str, Any] = {
        "ruleId": finding.kind,
        "ruleIndex": list(MEANINGS).index(finding.kind),
        "level": "note" if finding.expected else "error",
        "message": {"text": f"{finding.message}. {finding.hint or ''}".strip()},
        "locations": [{"physicalLocation": place}],
    }
    if finding.expected:
        result["suppressions"] = [{"kind": "inSource"}]
    return result
