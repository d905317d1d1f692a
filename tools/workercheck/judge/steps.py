"""The steps of what ran, as a verdict needs them: where each stands, and what its tags allow."""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from workercheck.evidence import records as ev

EXPECT_WORKER_ERROR = "expect-worker-error"
RAISES_EXCEPTION = "raises-exception"
EXPECTING_EXAMPLE = "sphinx_gallery_expect_worker_error"
"""The comment of an example that shows a worker's failure, in the manner of sphinx-gallery."""
_COMMENT = re.compile(rf"^[ \t]*#\s*{EXPECTING_EXAMPLE}\s*=\s*True[ \t]*$", re.MULTILINE)


def is_failing_example(text: str) -> bool:
    """Tell whether a comment in an example says that a worker must fail in it."""
    return _COMMENT.search(text) is not None


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of what ran: a code cell of a page, or a line of a program that handed work out."""

    line: int
    """1-based line of the source where the step begins, 0 where it is not known."""
    tags: frozenset[str]
    label: str = ""
    """What a person finds the step by where the line does not do, empty where it does."""

    @property
    def expects_worker_error(self) -> bool:
        """Tell whether a worker failure must happen here."""
        return EXPECT_WORKER_ERROR in self.tags

    @property
    def may_raise(self) -> bool:
        """Tell whether an ordinary error is what the step shows."""
        return self.expects_worker_error or RAISES_EXCEPTION in self.tags


_S = TypeVar("_S", bound=Step)


def step_at(steps: Sequence[_S], index: int | None) -> _S | None:
    """Return a step, None where there is none: evidence may name any index."""
    return steps[index] if index is not None and 0 <= index < len(steps) else None


class Steps(Protocol):
    """What ran, step by step."""

    @property
    def cells(self) -> Sequence[Step]:
        """The steps, in the order in which they ran."""

    @property
    def allow_errors(self) -> bool:
        """Whether every step may raise."""

    @property
    def name(self) -> str:
        """What ran: ``page`` or ``command``."""

    def step_of(self, place: ev.Place) -> int | None:
        """Return the step that a place stands in by itself, None where only the run tells."""

    def line_within(self, cell: int, line: int, running: int | None) -> str:
        """Return the words for a line of a step's code, empty where the step's place says it.

        Parameters
        ----------
        cell, line
            The step that has the code, and the 1-based line within it.
        running
            The step that ran it.
        """


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class HandOut(Step):
    """A line of a program that handed work out."""

    source: str
    """The path of its file, as a person would type it."""
    docname: str
    """The path, or the id of the test that ran."""
    cell: int | None = None
    """The 0-based index among the code cells, for a line of a notebook."""


class HandOuts:
    """The steps of a command, told from what handed work out: nobody knows them before it runs.

    Parameters
    ----------
    places
        All places of its evidence.
    locate
        Returns the line at which a place stands, None where that is not known.
    expecting
        The tests that passed, and in which a worker had to fail.
    """

    name = "command"
    allow_errors = False

    def __init__(
        self,
        places: Iterable[ev.Place],
        locate: Callable[[ev.Place], HandOut | None],
        expecting: Iterable[HandOut] = (),
    ) -> None:
        self.cells: list[HandOut] = []
        self._steps: dict[tuple[int, int], int] = {}
        known: dict[HandOut, int] = {}
        for place in places:
            step = locate(place)
            if step is not None:
                self._steps[place.pid, place.id] = known.setdefault(step, len(self.cells))
                if len(known) > len(self.cells):
                    self.cells.append(step)
        own = {(s.docname, s.cell): s for s in reversed(self.cells) if _says_so_itself(s)}
        self.expecting = list(dict.fromkeys([*expecting, *reversed(own.values())]))
        """Where a worker had to fail: tests, cells of notebooks and examples."""

    def step_of(self, place: ev.Place) -> int | None:
        """Return the index of the line at which a place stands."""
        return self._steps.get((place.pid, place.id))

    def line_within(self, cell: int, line: int, running: int | None) -> str:
        """Return nothing: a step is a line."""
        return ""


def _says_so_itself(step: HandOut) -> bool:
    """Tell whether a cell or an example, and no test, says that a worker must fail in it."""
    is_of_test = step.cell is None and step.docname != step.source
    return step.expects_worker_error and not is_of_test
