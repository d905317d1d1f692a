"""The steps of what ran, as a verdict needs them: where each stands, and what its tags allow."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import Protocol

EXPECT_WORKER_ERROR = "expect-worker-error"
RAISES_EXCEPTION = "raises-exception"


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of what ran: a code cell of a page."""

    line: int
    """1-based line of the source where the step begins."""
    tags: frozenset[str]

    @property
    def expects_worker_error(self) -> bool:
        """Tell whether a worker failure must happen here."""
        return EXPECT_WORKER_ERROR in self.tags

    @property
    def may_raise(self) -> bool:
        """Tell whether an ordinary error is what the step shows."""
        return self.expects_worker_error or RAISES_EXCEPTION in self.tags


class Steps(Protocol):
    """What ran, step by step."""

    @property
    def cells(self) -> Sequence[Step]:
        """The steps, in the order in which they ran."""

    @property
    def allow_errors(self) -> bool:
        """Whether every step may raise."""
