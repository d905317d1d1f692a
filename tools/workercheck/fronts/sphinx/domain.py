"""What Sphinx keeps between builds about pages with code cells, as it keeps all such knowledge."""

from __future__ import annotations

import dataclasses as dc
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sphinx.domains import Domain

from workercheck.fronts.sphinx.handover import Handover
from workercheck.judge.finding import Finding
from workercheck.report.record import PageReport
from workercheck.run.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from sphinx.environment import BuildEnvironment


@dc.dataclass(slots=True)
class PageRecord:
    """What is known of a page since it was last read."""

    report: PageReport
    sources: Mapping[str, str] | None = dc.field(default_factory=dict)
    """What its run depended on of the project, as `Run.sources` has it."""
    force: bool = False
    """Whether the page asks to be executed at every build."""


class WorkercheckDomain(Domain):
    """The records of the pages; no directive and no role."""

    name = "workercheck"
    label = "workercheck"
    initial_data: ClassVar[dict[str, Any]] = {"records": {}, "findings": {}, "key": ""}
    data_version = 1

    # Of this build, and no part of what is kept.
    handover: Handover
    """The runs of this build."""
    environment: Environment
    """What the pages of this build run with."""

    @property
    def records(self) -> dict[str, PageRecord]:
        """The pages that have code cells, by docname."""
        return cast("dict[str, PageRecord]", self.data["records"])

    @property
    def findings(self) -> dict[str, list[Finding]]:
        """What was found while myst-nb read the pages, by docname."""
        return cast("dict[str, list[Finding]]", self.data["findings"])

    @property
    def key(self) -> str:
        """Key of the environment that the last build ran in, empty before the first."""
        return cast("str", self.data["key"])

    @key.setter
    def key(self, value: str) -> None:
        self.data["key"] = value

    def add(self, docname: str, finding: Finding) -> None:
        """Add to what was found while a page was read."""
        found = self.findings.setdefault(docname, [])
        if finding not in found:
            found.append(finding)

    def clear_doc(self, docname: str) -> None:
        """Forget a page that is read again, or is gone."""
        self.records.pop(docname, None)
        self.findings.pop(docname, None)

    def merge_domaindata(self, docnames: AbstractSet[str], otherdata: dict[str, Any]) -> None:
        """Take over what a parallel reader found on the pages that it has read."""
        for docname in docnames & otherdata["findings"].keys():
            self.findings[docname] = otherdata["findings"][docname]

    def resolve_any_xref(self, *args: Any) -> list[Any]:
        """Find nothing: there is nothing to refer to."""
        return []


def of(env: BuildEnvironment) -> WorkercheckDomain:
    """Return the domain of a build environment."""
    return cast("WorkercheckDomain", env.get_domain(WorkercheckDomain.name))
