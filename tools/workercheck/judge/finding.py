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

MEANINGS: dict[FindingKind, str] = {
    "unpickle-task": "A worker could not load what it was sent.",
    "unpickle-result": "The page could not load what a worker sent back.",
    "pickle-task": "A task could not be pickled, and was never sent to a worker.",
    "pickle-result": "A worker could not pickle its result.",
    "worker-died": "A worker was killed, crashed or exited while it had work.",
    "cell-error": "A cell raised an error.",
    "cell-timeout": "A cell took longer than its limit.",
    "kernel-died": "The kernel of the page ended, or did not start.",
    "unseen-failure": "Work failed, and nobody asked for its result.",
    "leftover-process": "A process outlived its page and had to be ended.",
    "not-executed": "Code was not executed.",
    "not-watched": "A process ran without the recorder, or evidence was lost.",
    "not-rendered": "The page ran, and its output cannot be rendered.",
    "expected-but-absent": "A worker's failure was expected, and no worker failed.",
}
"""What happened, by kind, in a sentence."""

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
