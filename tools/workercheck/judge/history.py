"""What a page's evidence tells of its run: its processes, its executors, and which cell was meant.

A worker fails later, and in another process than the one whose cell handed the work out. Here is
what puts the two together; whether that is a finding is decided in `workercheck.judge.rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from workercheck.evidence import records as ev
from workercheck.judge import wording
from workercheck.judge.steps import Steps

_MPI = "mpi4py.futures"

_SERVICE = re.compile(
    r"-c (?:import sys; )?from multiprocessing\.\w+ import"
    r"|\bdask[ -]scheduler\b|-m (?:dask|distributed|ipyparallel)\b"
)
"""The command line of what an executor starts beside its workers, a scheduler for one."""

_E = TypeVar("_E", bound=ev.Event)


def of(events: Sequence[ev.Event], cls: type[_E]) -> list[_E]:
    """Return the events of one kind, in order."""
    return [e for e in events if isinstance(e, cls)]


def executors(events: Sequence[ev.Event]) -> list[str]:
    """Return the executors that the page handed work to, in order of first use."""
    # MPI never works for the page's own process, only for a script that the page runs.
    handed = [
        e
        for e in of(events, ev.Submitted)
        if e.cell is not None or wording.family(e.executor) == _MPI
    ]
    return list(dict.fromkeys(wording.public(e.executor) for e in handed))


def started(events: Sequence[ev.Event]) -> dict[str, int]:
    """Count the processes that were started to work for the page, by how they were started."""
    hellos = {e.pid: e for e in of(events, ev.Hello)}
    leaders = {e.pid for e in of(events, ev.Submitted) if wording.family(e.executor) == _MPI}
    # A nanny of Dask runs the same program as a worker without one, and has the worker below it.
    nannies = {e.ppid for e in hellos.values() if wording.start_method(e) == "spawn"}
    counts: dict[str, int] = {}
    for hello in hellos.values():
        how = wording.start_method(hello)
        if (
            how is None
            or hello.pid in leaders
            or (how == "dask" and hello.pid in nannies)
            or any("ipyparallel.controller" in h.argv for h in _ancestors(hello, hellos))
        ):
            continue
        counts[how] = counts.get(how, 0) + 1
    return counts


def kernel(events: Sequence[ev.Event]) -> ev.Hello | None:
    """Return what the page's kernel said of itself when it started, None where it did not."""
    return next((e for e in of(events, ev.Hello) if not e.forked), None)


class History:
    """The run of one page, by cells and processes.

    Parameters
    ----------
    page
        The page as it is now: lines and tags come from it.
    events
        The evidence of its run, whole or so far.
    """

    def __init__(self, page: Steps, events: Sequence[ev.Event]) -> None:
        self.page = page
        self.events = events
        self.hellos: dict[int, ev.Hello] = {e.pid: e for e in of(events, ev.Hello)}
        itself = kernel(events)
        self.kernel = itself.pid if itself is not None else None
        self.started = of(events, ev.CellStarted)
        self.ended = of(events, ev.CellFinished)
        self.cell_of_message = {e.message_id: e.cell for e in self.ended}
        self.submitted = of(events, ev.Submitted)
        self.closing = min((e.time for e in of(events, ev.Closing)), default=float("inf"))
        """When the last cell was done and the processes were asked to end, infinite before."""

    def line(self, cell: int | None) -> int:
        """Return the line of a cell, 0 where there is none."""
        return self.page.cells[cell].line if cell is not None and cell < len(self.page.cells) else 0

    def expects(self, cell: int | None) -> bool:
        """Tell whether a cell is tagged ``expect-worker-error``."""
        return (
            cell is not None
            and cell < len(self.page.cells)
            and self.page.cells[cell].expects_worker_error
        )

    def cell_at(self, moment: float) -> int | None:
        """Return the cell that ran at a time, or last before it, None before the first."""
        running = [e.cell for e in self.started if e.time <= moment]
        return running[-1] if running else None

    def cell_of(self, message_id: str | None, moment: float) -> int | None:
        """Return the cell behind a message id; one without an answer is the last that ran."""
        if message_id in self.cell_of_message:
            return self.cell_of_message[message_id]
        return self.cell_at(moment)

    def _in_program(self, pid: int) -> bool:
        """Tell whether a process belongs to a program that the page ran, such as a script.

        What fails there has nothing to do with the work that the page itself handed out.
        """
        hello = self.hellos.get(pid)
        lineage = [hello, *_ancestors(hello, self.hellos)] if hello else []
        return any(
            not h.forked
            and h.pid != self.kernel
            and wording.start_method(h) in (None, "mpi4py")
            and not _SERVICE.search(" ".join(h.argv[:4]))
            for h in lineage
        )

    def submission(
        self, pid: int, moment: float, executor: str | None, names: Iterable[str]
    ) -> ev.Submitted | None:
        """Find the submission of a piece of work that failed later, elsewhere.

        The latest one that names what failed and used this executor, else the latest that
        does one of both, else the latest. None in a program of its own, where *pid* is.
        """
        if self._in_program(pid):
            return None
        names = {name for name in names if name}
        before = [
            s
            for s in self.submitted
            if s.time <= moment
            and s.cell is not None
            and wording.family(s.executor) != "thread"  # these send nothing
        ]

        def named(s: ev.Submitted) -> bool:
            return not names.isdisjoint(s.names)

        def same(s: ev.Submitted) -> bool:
            return executor is not None and wording.family(s.executor) == wording.family(executor)

        # An executor that broke has no work from before left that could still fail.
        broke = [
            e.time
            for e in of(self.events, ev.PoolBroken)
            if e.time <= moment
            and executor
            and wording.family(e.executor) == wording.family(executor)
        ]
        since = [s for s in before if broke and s.time > max(broke)]
        tests: tuple[tuple[list[ev.Submitted], Callable[[ev.Submitted], bool]], ...] = (
            (since, lambda s: named(s) and same(s)),
            (since, same),
            (before, lambda s: named(s) and same(s)),
            (before, named),
            (before, same),
            (before, lambda s: True),
        )
        for submissions, test in tests:
            for submission in reversed(submissions):
                if test(submission):
                    return submission
        return None


def _ancestors(hello: ev.Hello, hellos: Mapping[int, ev.Hello]) -> list[ev.Hello]:
    """Return the processes of the page above one, the nearest first."""
    found: list[ev.Hello] = []
    above = hellos.get(hello.ppid)
    while above is not None and above not in found:
        found.append(above)
        above = hellos.get(above.ppid)
    return found
