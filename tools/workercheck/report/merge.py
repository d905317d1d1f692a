"""The reports of all shards of a project, made into one."""

from __future__ import annotations

from collections.abc import Mapping

from workercheck.report.record import Report, Shard


def merge(reports: Mapping[str, Report]) -> tuple[Report, list[str]]:
    """Make one report of those of all shards, and look for what makes it worthless.

    Parameters
    ----------
    reports
        By what a person calls them; at least one.

    Returns
    -------
    report
        As of one build with all pages.
    doubts
        Why it tells too little, one sentence each; empty when it tells all.
    """
    first, *others = reports
    whole = Report(environment=reports[first].environment, pages=[], site={})
    doubts = [
        f"{name}: the shard ran in another environment than {first}."
        for name in others
        if reports[name].environment["key"] != whole.environment["key"]
    ]
    shards: dict[str, Shard] = {}
    for name, report in reports.items():
        if report.shard is None:
            doubts.append(f"{name}: the file is no report of workercheck execute --shard.")
        else:
            shards[name] = report.shard
        if report.unfinished:
            doubts.append(f"{name}: the run did not finish ({report.unfinished}).")
        whole.pages += report.pages
    whole.pages.sort(key=lambda page: page.docname)
    doubts += _gaps(shards) if not doubts else []
    if not doubts:
        doubts += _pages_amiss(whole, next(iter(shards.values())))
    return whole, doubts


def _gaps(shards: Mapping[str, Shard]) -> list[str]:
    """Tell of shards that are missing, there twice, or of another division."""
    first, *others = shards
    of = shards[first].of
    doubts = []
    seen = {shards[first].number: first}
    for name in others:
        shard = shards[name]
        if shard.of != of:
            doubts.append(
                f"{name}: the report is of shard {shard.name}, but {first} is of shard "
                f"{shards[first].name}."
            )
        elif shard.docnames != shards[first].docnames:
            doubts.append(f"{name}: the project had other pages than in {first}.")
        elif shard.number in seen:
            doubts.append(
                f"{name}: the report is of shard {shard.name}, and so is {seen[shard.number]}."
            )
        seen[shard.number] = name
    missing = sorted(set(range(1, of + 1)) - seen.keys())
    return doubts + [f"the report of shard {number}/{of} is missing." for number in missing]


def _pages_amiss(whole: Report, shard: Shard) -> list[str]:
    found = [page.docname for page in whole.pages]
    times = {name: found.count(name) for name in sorted({*shard.docnames, *found})}
    way_out = "Begin all shards with the same store, which knows how long pages took."
    doubts = [
        f"{name}: the page is in {f'{number} shards' if number else 'no shard'}. {way_out}"
        for name, number in times.items()
        if number != 1
    ]
    if not any(page.executed for page in whole.pages):
        doubts.append("no page was executed, so nothing was checked.")
    return doubts
