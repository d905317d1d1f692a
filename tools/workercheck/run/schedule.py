"""In which order pages run, and how many at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workercheck.run.page import Page

_CGROUP = Path("/sys/fs/cgroup")


def order(pages: Sequence[Page], seconds: Mapping[str, float]) -> list[Page]:
    """Put the pages that take long first, so that none is left over for the end.

    A page that nobody has timed may be the longest, so it comes before the others, the one with
    most code first.

    Parameters
    ----------
    pages
        What is about to run.
    seconds
        What pages took before, by docname.
    """
    return sorted(
        pages,
        key=lambda page: (
            page.docname in seconds,
            -seconds.get(page.docname, sum(len(cell.source) for cell in page.cells)),
        ),
    )


def divide(docnames: Iterable[str], shards: int, seconds: Mapping[str, float]) -> list[set[str]]:
    """Divide pages into shards that take about the same time, always in the same way.

    A page that nobody has timed counts as an average one.

    Parameters
    ----------
    docnames
        The names of all pages.
    shards
        Among how many machines.
    seconds
        What pages took before, by docname.
    """
    names = set(docnames)
    known = [seconds[name] for name in sorted(names & seconds.keys())]
    average = sum(known) / len(known) if known else 1.0
    found: list[set[str]] = [set() for _ in range(shards)]
    load = [0.0] * shards
    for name in sorted(names, key=lambda name: (-seconds.get(name, average), name)):
        # Where all pages take no time, their number counts.
        least = min(range(shards), key=lambda shard: (load[shard], len(found[shard])))
        found[least].add(name)
        load[least] += seconds.get(name, average)
    return found


def cores(cgroup: Path = _CGROUP) -> int:
    """Return how many cores this process may use: its affinity, and its container's quota."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        count = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _quota(cgroup) or count))


def _quota(cgroup: Path) -> int | None:
    """Return the quota in whole cores, None without one."""
    try:
        if (unified := cgroup / "cpu.max").exists():
            quota, period = map(int, unified.read_text().split())  # "max" is no number
        else:
            quota, period = (
                int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text())
                for name in ("quota", "period")
            )
    except (OSError, ValueError):
        return None
    return math.ceil(quota / period) if quota > 0 and period > 0 else None
