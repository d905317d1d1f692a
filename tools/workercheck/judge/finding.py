"""A finding: what a maintainer has to know about one failure. Standard library only."""

from __future__ import annotations

import dataclasses as dc
from typing import Literal, get_args

FindingKind = Literal[
    "unpickle-task",
    "unpickle-result",
    "pickle-task",
    "pickle-result",
    "worker-died",
    "cell-error",
    "cell-timeout",
    "kernel-died",
    "unseen-failure",
    "leftover-process",
    "not-executed",
    "not-watched",
    "not-rendered",
    "expected-but-absent",
]
FINDING_KINDS: tuple[str, ...] = get_args(FindingKind)

WORKER_KINDS: frozenset[FindingKind] = frozenset(
    {"unpickle-task", "unpickle-result", "pickle-task", "pickle-result", "worker-died"}
)
"""The kinds that a cell tagged ``expect-worker-error`` must produce."""


@dc.dataclass(frozen=True, slots=True)
class Finding:
    """What a maintainer has to know about one failure of a page."""

    kind: FindingKind
    message: str
    """What happened, worded once for every report, without the place and the hint."""
    line: int
    """1-based line of the source, 0 where the page as a whole is meant."""
    cell: int | None = None
    """0-based index among the page's code cells."""
    expected: bool = False
    exception: str | None = None
    process: str | None = None
    object: str | None = None
    hint: str | None = None
