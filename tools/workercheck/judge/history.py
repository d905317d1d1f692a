"""What the evidence of a run tells: its processes, its executors, and which cell handed out what.

Built once for a run; every consumer asks it. The order of events is their order in the evidence:
all processes append to one file, whatever their clocks say.
"""

from __future__ import annotations

import dataclasses as dc
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.judge import wording
from workercheck.judge.steps import Step, Steps, step_at

_E = TypeVar("_E", bound=ev.Event)

_MPI = "mpi4py.futures"
_MODULE = re.compile(r"[^/\\]+\.py$")
_BIRTH_ERROR = 0.02
"""Seconds by which the system's word on when a process began may be wrong."""

_DEPTH = 20
"""How many processes may be above one another, each working for the one above it."""

_ENDING = (1, 2, 3, 6, 9, 10, 12, 14, 15)
"""The signals that end a process that does nothing about them: HUP, INT, QUIT, ABRT, KILL, …"""


@dc.dataclass(frozen=True, slots=True)
class Work:
    """Who handed a piece of work out."""

    cell: int | None
    place: ev.Place | None
    """None where only the cell is known."""
    is_guess: bool = False
    """Whether it was told from what happened about then, because no identity was left."""

    @property
    def executor(self) -> str | None:
        """The public name of the executor, None where it is not known."""
        known = self.place is not None and bool(self.place.executor)
        return libraries.public(self.place.executor) if known and self.place is not None else None


def _without_retried(events: Sequence[ev.Event]) -> Sequence[ev.Event]:
    """Leave out the failed loads of messages that were loaded after all."""
    if not any(isinstance(event, ev.LoadRetried) for event in events):
        return events
    retried: Counter[tuple[int, int, int]] = Counter()
    kept = []
    for event in reversed(events):
        if isinstance(event, ev.LoadRetried | ev.LoadFailed):
            message = event.pid, event.interpreter, event.fingerprint
            if isinstance(event, ev.LoadRetried):
                retried[message] += 1
            elif retried[message]:
                retried[message] -= 1
                continue
        kept.append(event)
    return kept[::-1]


def _receiver(event: ev.Event) -> int:
    """Return the pid of the process that got the message of an event."""
    return event.child if isinstance(event, ev.EndedAtWork) else event.pid


class History:
    """A run, by cells and processes.

    Parameters
    ----------
    steps
        What ran: lines and tags come from it.
    events
        The evidence of its run, whole or so far.
    """

    def __init__(self, steps: Steps, events: Sequence[ev.Event]) -> None:
        self.steps = steps
        self.events = events = _without_retried(events)
        self._order = {id(event): index for index, event in enumerate(events)}
        self._by_type: dict[type[ev.Event], list[ev.Event]] = {}
        for event in events:
            self._by_type.setdefault(type(event), []).append(event)
        self.started = {e.pid: e for e in self.of(ev.ProcessStarted)}
        first = next((e for e in self.of(ev.ProcessStarted) if not e.forked), None)
        self.kernel = first
        """The first process of the run, None where it did not say that it watches."""
        self.ended = self.of(ev.CellFinished)
        self._cell_of_message = {e.message_id: e.cell for e in self.ended}
        self._cell_of_number = {e.number: e.cell for e in self.ended if e.number is not None}
        self._places = {(e.pid, e.id): e for e in self.of(ev.Place)}
        self._within = {(e.pid, e.id): e for e in self.of(ev.PlaceWithin)}
        self._parent = {e.child: e for e in self.of(ev.ChildStarted)}
        self._sent: dict[tuple[int, int], list[ev.MessageSent]] = {}
        for sent in self.of(ev.MessageSent):
            known = self._sent.setdefault((sent.fingerprint, sent.to), [])
            if sent.corrects:
                known.clear()
            known.append(sent)
        self._turns: dict[int, int] = {}
        """By the id of an event about a message: how many came before it about the same bytes in
        its process."""
        counts: dict[tuple[int, int], int] = {}
        for event in events:
            if isinstance(event, ev.LoadFailed | ev.EndedAtWork | ev.PlaceWithin):
                same = event.fingerprint, _receiver(event)
                self._turns[id(event)] = counts.get(same, 0)
                counts[same] = self._turns[id(event)] + 1
        self._shutdown = min(
            (self._order[id(e)] for e in self.of(ev.ShutdownStarted)), default=len(events)
        )
        self._ended_kernels = {
            e.child: self._order[id(e)] for e in reversed(self.of(ev.KernelShutdown))
        }
        signals = [
            e
            for e in self.of(ev.SignalSent)
            if e.signal in _ENDING and self._order[id(e)] < self._shutdown
        ]
        self._signalled = {e.child: self._order[id(e)] for e in reversed(signals) if not e.is_group}
        self._signalled_by_reader = {e.child for e in signals if e.owned}
        found_dead = [(self._order[id(e)], e.child) for e in self.of(ev.Exited)]
        found_dead += [(self._order[id(e)], p) for e in self.of(ev.PoolBroken) for p in e.ended]
        self._found_dead = {pid: order for order, pid in sorted(found_dead, reverse=True)}
        self._signalled_groups: dict[int, dict[int, int]] = {}
        """By group: who sent it a signal, and when first."""
        for e in signals:
            if e.is_group:
                senders = self._signalled_groups.setdefault(e.child, {})
                senders.setdefault(e.pid, self._order[id(e)])
        self.deaths_seen = {e.child for e in self.of(ev.DeathSeen)}
        self.exit_codes = {e.child: e.exitcode for e in self.of(ev.Exited)}
        self._cells = [(self._order[id(e)], e.cell) for e in self.of(ev.CellStarted)]

    def of(self, cls: type[_E]) -> list[_E]:
        """Return the events of one kind, in order."""
        return self._by_type.get(cls, [])  # type: ignore[return-value]

    # --- cells ---

    def step(self, cell: int | None) -> Step | None:
        """Return what is known of a cell, None where there is none."""
        return step_at(self.steps.cells, cell)

    def line(self, cell: int | None) -> int:
        """Return the line of a cell, 0 where there is none."""
        step = self.step(cell)
        return step.line if step is not None else 0

    def expects(self, cell: int | None) -> bool:
        """Tell whether a cell is tagged ``expect-worker-error``."""
        step = self.step(cell)
        return step is not None and step.expects_worker_error

    def order(self, event: ev.Event) -> int:
        """Return the position of an event in the evidence."""
        return self._order[id(event)]

    def is_after_shutdown(self, event: ev.Event) -> bool:
        """Tell whether an event came after its processes were asked to end."""
        order = self._order[id(event)]
        if order >= self._shutdown:
            return True
        return bool(self._ended_kernels) and any(
            self._ended_kernels.get(process.pid, order) < order
            for pid in (event.pid, getattr(event, "child", None) or 0)
            for process in self._lineage(pid)
        )

    def cell_at(self, event: ev.Event) -> int | None:
        """Return the cell that ran when an event was written, or last before it."""
        order = self._order[id(event)]
        running = [cell for start, cell in self._cells if start < order]
        return running[-1] if running else None

    def cell_at_birth(self, pid: int, born: float) -> int | None:
        """Return the cell during which a process began that nobody saw begin.

        The system tells the time roughly, above all on a busy machine. Of cells that short,
        it is the one that started the process with the pid next below.
        """
        began = [(e.time - _BIRTH_ERROR, e.cell) for e in self.of(ev.CellStarted)]
        running = [cell for start, cell in began if start <= born]
        if not running:
            return None
        close = [cell for start, cell in began if abs(start + _BIRTH_ERROR - born) < _BIRTH_ERROR]
        below = [e for e in self.of(ev.ChildStarted) if e.child < pid]
        if close and below:
            cell = self.cell_of_process(max(below, key=lambda e: e.child).child)
            if cell is not None and cell in (*running[-2:], *close):
                return cell
        running = [e.cell for e in self.of(ev.CellStarted) if e.time <= born]
        return running[-1] if running else None

    # --- who handed it out ---

    def work_at(self, pid: int, number: int, depth: int = _DEPTH) -> Work | None:
        """Return the work of a place, None where it is not known."""
        within = self._within.get((pid, number))
        place = self._places.get((pid, number if within is None else within.place))
        if place is None:
            return None
        work = Work(self._cell_of_place(place, depth), place)
        if within is None or not depth:
            return work
        return self._on_behalf(work, self.work_of_message(within.fingerprint, within, depth - 1))

    def work_of_message(
        self, fingerprint: int, event: ev.Event, depth: int = _DEPTH
    ) -> Work | None:
        """Return the work that a message carried, or answered, None where it is not known.

        Parameters
        ----------
        fingerprint
            Of the message.
        event
            What became of it: two cells may have sent the same bytes, one after the other.
        depth
            How often a worker may have handed on what it was handed.
        """
        sent = self._sent_of(fingerprint, event)
        if sent is not None and sent.reply_to:
            sent = self._sent_of(sent.reply_to, event)
        work = self.work_at(sent.sender, sent.place, depth) if sent is not None else None
        if sent is not None and work is None and self._has_one_call(sent.sender):
            return self.work_of_process(sent.sender)  # the answer of a process to its start
        if sent is None or work is None or not (sent.within and depth):
            return work
        return self._on_behalf(work, self.work_of_message(sent.within, event, depth - 1))

    @staticmethod
    def _on_behalf(work: Work, outer: Work | None) -> Work:
        """Return the work that a worker handed out for the cell that handed the worker its own."""
        return work if outer is None or outer.cell is None else dc.replace(work, cell=outer.cell)

    def is_from_above(self, fingerprint: int, event: ev.Event) -> bool:
        """Tell whether a message came from a process above the one of an event: it is no answer."""
        sent = self._sent_of(fingerprint, event)
        above = {process.pid for process in self._lineage(event.pid)} - {event.pid}
        return sent is not None and sent.sender in above

    def _sent_of(self, fingerprint: int, event: ev.Event) -> ev.MessageSent | None:
        # Each event about a message has its own look-up, in the same order.
        turn = self._turns.get(id(event), 0)
        found = self._sent.get((fingerprint, _receiver(event)), [])
        return found[min(turn, len(found) - 1)] if found else None

    def work_of_process(self, pid: int) -> Work | None:
        """Return the work for which a process was started, None where it is not known."""
        parent = self._parent.get(pid)
        if parent is not None:
            return self.work_at(parent.pid, parent.place)
        return None

    def where(self, work: Work) -> str:
        """Say which statement handed a piece of work out, empty where the cell is all there is."""
        place = work.place
        if place is None or work.is_guess or self.steps.name != "page":
            return ""
        cell = self._cell_of_number.get(place.number) if place.number is not None else None
        if cell is None:
            # A module of the page's own; what ipykernel calls a cell's file says nothing.
            file = _MODULE.search(place.file)
            return f", at {file[0]}:{place.line}" if file and "ipykernel_" not in place.file else ""
        line = self.steps.line_within(cell, place.line, work.cell)
        other = f" at line {self.line(cell)}" if cell != work.cell else ""
        return f", at {line}{other}" if line else ""

    def guess(self, event: ev.Event, executor: str | None, message_id: str | None = None) -> Work:
        """Return the latest work that could be meant: the last resort.

        It is marked as a guess unless all that could be meant is of one cell.
        """
        if message_id in self._cell_of_message:
            return Work(self._cell_of_message[message_id], None)
        if self.kernel is not None and event.pid != self.kernel.pid and self._in_program(event.pid):
            # What fails in a program has nothing to do with the work of the page's own cells.
            return Work(self.cell_of_process(event.pid), None)
        order = self._order[id(event)]
        before = [
            p
            for p in self.of(ev.Place)
            if self._order[id(p)] < order and p.file and p.executor not in ("asyncio", "subprocess")
        ]
        above = {process.pid for process in self._lineage(event.pid)}
        # A command may run several programs side by side.
        before = [p for p in before if p.pid in above] or before
        same = [p for p in before if executor and libraries.public(p.executor) == executor]
        if same or before:
            places = same or before
            cells = {self._cell_of_place(place) for place in places}
            return Work(self._cell_of_place(places[-1]), places[-1], is_guess=len(cells) > 1)
        return Work(self.cell_at(event), None, is_guess=True)

    def _cell_of_place(self, place: ev.Place, depth: int = _DEPTH) -> int | None:
        step = self.steps.step_of(place)
        if step is not None:
            return step
        if place.cell in self._cell_of_message:
            return self._cell_of_message[place.cell]
        if place.cell is None and place.number in self._cell_of_number:
            return self._cell_of_number[place.number]
        if self.kernel is None or place.pid == self.kernel.pid:
            return self.cell_at(place)
        return self.cell_of_process(place.pid, depth)

    def cell_of_process(self, pid: int, depth: int = _DEPTH) -> int | None:
        """Return the cell on whose behalf a process runs."""
        parent = self._parent.get(pid)
        if parent is not None and depth:
            work = self.work_at(parent.pid, parent.place, depth - 1)
            if work is not None:
                return work.cell
            if self.kernel is not None and parent.pid == self.kernel.pid:
                return self.cell_at(parent)
            return self.cell_of_process(parent.pid, depth - 1)
        started = self.started.get(pid)
        if started is None:
            return None
        kernel = self.kernel.pid if self.kernel is not None else None
        if started.ppid != kernel and started.ppid in self.started and depth:
            return self.cell_of_process(started.ppid, depth - 1)
        return self.cell_at(started)

    def _in_program(self, pid: int) -> bool:
        """Tell whether a process belongs to a program that the page ran, such as a script."""
        return any(
            not self._is_kernel(process.pid) and wording.is_program(process)
            for process in self._lineage(pid)
        )

    def _is_kernel(self, pid: int) -> bool:
        """Tell whether a process is the kernel; interpreters within it start under the same pid."""
        return self.kernel is not None and pid == self.kernel.pid

    def is_program(self, pid: int) -> bool:
        """Tell whether a process is a program, the page's kernel included, and works for none."""
        started = self.started.get(pid)
        return started is not None and wording.is_program(started)

    def _lineage(self, pid: int) -> Iterator[ev.ProcessStarted]:
        """Yield a process and those of the run above it, the nearest first."""
        seen: set[int] = set()
        process = self.started.get(pid)
        while process is not None and process.pid not in seen:
            seen.add(process.pid)
            yield process
            process = self.started.get(process.ppid)

    # --- processes ---

    def was_ended_on_purpose(self, pid: int) -> bool:
        """Tell whether a process was sent a signal that ends it, before it was found dead."""
        found_dead = self._found_dead.get(pid, len(self.events))
        started = self.started.get(pid)
        senders = self._signalled_groups.get(started.group, {}) if started is not None else {}
        asked = [order for sender, order in senders.items() if sender != pid]
        return min([*asked, self._signalled.get(pid, found_dead)]) < found_dead

    def was_ended_by_reader(self, pid: int) -> bool:
        """Tell whether the reader's own code ended a process, and not a library by itself."""
        return pid in self._signalled_by_reader and self.was_ended_on_purpose(pid)

    def has_reader_ended_any(self, before: ev.Event) -> bool:
        """Tell whether the reader's own code had ended some process before an event."""
        order = self._order[id(before)]
        return any(
            e.owned and e.signal in _ENDING and self._order[id(e)] < order
            for e in self.of(ev.SignalSent)
        )

    def role(self, pid: int) -> str:
        """Say what a process is: a ``kernel``, a ``worker``, or a ``process`` of another kind."""
        started = self.started.get(pid)
        if self._is_kernel(pid) and self.steps.name == "page":
            return "kernel"
        if not self.is_program(pid):
            return "worker"
        return "kernel" if "ipykernel" in " ".join(started.argv if started else ()) else "process"

    def is_worker(self, pid: int) -> bool:
        """Tell whether a process was started with a function of multiprocessing's to run."""
        parent = self._parent.get(pid)
        return parent is not None and parent.target is not None

    def has_work(self, pid: int) -> bool:
        """Tell whether a process of `multiprocessing` was started with work of its own.

        A worker of a pool gets its tasks later, one by one; a program waits for its next message
        in the call that will load it.
        """
        library = self.library_of_target(pid)
        if library is not None and library.answers:
            return self._has_one_call(pid)
        return self.is_worker(pid)

    def _has_one_call(self, pid: int) -> bool:
        """Tell whether a library started a process for a single call of the reader's."""
        library = self.library_of_target(pid)
        return library is not None and self._parent[pid].target in library.one_call

    def library_of_target(self, pid: int) -> libraries.Library | None:
        """Return the library that started a process to run a function of its own, or None."""
        parent = self._parent.get(pid)
        return None if parent is None else libraries.library_of_worker(parent.target, parent.owned)

    def library_of_worker(self, pid: int) -> libraries.Library | None:
        """Return the library whose worker a process is, None for a process of the page's own."""
        started_by_library = self.library_of_target(pid)
        if started_by_library is not None:
            return started_by_library
        started = self.started.get(pid)
        method = wording.start_method(started) if started is not None else None
        if method not in (None, "fork", "forkserver", "spawn"):
            return libraries.library_of(method) or next(
                library
                for library in libraries.LIBRARIES
                if any(name == method for _, name in library.commands)
            )
        return None

    def executors(self) -> list[str]:
        """Return the executors that the page handed work to, in order of first use."""
        kernel = self.kernel.pid if self.kernel is not None else None
        found = []
        for place in self.of(ev.Place):
            name = libraries.public(place.executor)
            # MPI never works for the page's own process, only for a script that the page runs.
            of_page = (place.pid == kernel and (place.file or place.through)) or name == _MPI
            if of_page and libraries.library_of(place.executor) is not None:
                found.append(name)
        return [name for name in dict.fromkeys(found) if not name.endswith(".Pipe")]

    def workers(self) -> dict[str, int]:
        """Count the processes that were started to work for the page, by how they were started."""
        counts: dict[str, int] = {}
        for how in self.work_processes().values():
            counts[how] = counts.get(how, 0) + 1
        return counts

    def work_processes(self) -> dict[int, str]:
        """Return how each process was started that was started to work, by its pid."""
        found: dict[int, str] = {}
        leaders = {p.pid for p in self.of(ev.Place) if libraries.public(p.executor) == _MPI}
        # A nanny of Dask runs the same program as a worker without one, and has the worker below.
        nannies = {e.ppid for e in self.started.values() if wording.start_method(e) == "spawn"}
        for process in self.started.values():
            how = wording.start_method(process)
            above = list(self._lineage(process.pid))[1:]
            if (
                how is None
                or process.pid in leaders
                or (how == "dask" and process.pid in nannies)
                or any("ipyparallel.controller" in p.argv for p in above)
            ):
                continue
            found[process.pid] = how
        return found
