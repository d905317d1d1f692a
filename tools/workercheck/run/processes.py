"""The processes of a run: which there are, and who started them."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from workercheck.evidence import records as ev
from workercheck.run import clock, reaper

_CLOCK_ERROR = 0.1
"""Seconds by which the time may be wrong at which a process began: the system rounds."""


class ProcessTree:
    """The processes below a kernel, also those that have left it.

    A process may empty its environment, begin a session of its own, and outlive its parent, after
    which nothing in the system tells whose it was. So who started whom is remembered.

    Parameters
    ----------
    folder
        The folder of the run's evidence, which the processes inherit in a variable.
    """

    def __init__(self, folder: Path) -> None:
        self.kernel: psutil.Process | None = None
        self._folder = folder
        self._since = clock.now()
        self._members: dict[int, _Seen] = {}
        self._strangers: set[int] = set()
        self._sessions: set[int] = set()
        self._parents: dict[int, int] = {}
        self._named: dict[int, float] = {}
        """When an event named a process, by its pid."""

    def begin(self, pid: int) -> None:
        """Note the kernel, by its pid."""
        with contextlib.suppress(psutil.Error):
            self.kernel = psutil.Process(pid)
            self._members[pid] = _Seen.of(self.kernel)

    @property
    def kernel_has_ended(self) -> bool:
        """Whether the kernel is gone; nothing tells of one that is none of this machine's."""
        return self.kernel is not None and not _runs(self.kernel)

    def learn(self, events: Sequence[ev.Event]) -> None:
        """Take from new events who started whom."""
        for event in events:
            if isinstance(event, ev.ProcessStarted):
                self._named[event.pid] = event.time
                if event.ppid in self._parents or event.ppid in self._members:
                    self._parents[event.pid] = event.ppid
            elif isinstance(event, ev.ChildStarted):
                self._named[event.child] = event.time
                self._parents.setdefault(event.child, event.pid)

    def look(self) -> list[psutil.Process]:
        """Return the processes that run, and remember them."""
        pids = set(psutil.pids())
        self._members = {pid: seen for pid, seen in self._members.items() if _runs(seen.process)}
        self._strangers &= pids
        self._look_at_named(pids)
        self._look_at_sessions(pids)
        new = [seen for pid in pids - self._members.keys() - self._strangers if (seen := _see(pid))]
        while found := [seen for seen in new if self._belongs(seen)]:
            self._members |= {seen.process.pid: seen for seen in found}
            new = [seen for seen in new if seen not in found]
        self._strangers |= {seen.process.pid for seen in new}
        return [seen.process for seen in self._members.values()]

    def all(self) -> dict[int, psutil.Process]:
        """Return the processes that run, also those found by the variable alone, by pid."""
        found = {process.pid: process for process in self.look()}
        for process in reaper.processes_below(self._folder, since=self._since):
            found.setdefault(process.pid, process)
        return found

    def outside(self) -> set[int]:
        """Return the pids of those that the kernel does not end when it is asked to end.

        ipykernel ends the processes below it in its own process group.
        """
        outside = set(self.all())
        if self.kernel is not None:
            outside.discard(self.kernel.pid)
            with contextlib.suppress(psutil.Error):
                group = _group(self.kernel.pid)
                below = self.kernel.children(recursive=True)
                outside -= {process.pid for process in below if _group(process.pid) == group}
        return outside

    def parents(self, pid: int) -> list[int]:
        """Return the pids above a process as long as they are known, the nearest first."""
        found: list[int] = []
        while (pid := self._parents.get(pid, 0)) and pid not in found:
            found.append(pid)
        return found

    def _belongs(self, seen: _Seen) -> bool:
        """Tell whether a process, seen for the first time, is one of the run."""
        parent = self._members.get(seen.ppid)
        if parent is not None and parent.born <= seen.born:
            self._parents[seen.process.pid] = seen.ppid
            return True
        if seen.session not in self._sessions:
            return False
        self._parents.setdefault(seen.process.pid, seen.session)  # its parent has ended
        return True

    def _look_at_named(self, pids: set[int]) -> None:
        for pid in pids & self._named.keys() - self._members.keys():
            seen = _see(pid)
            # Another process may have the pid now, or in the container that the event is from.
            if seen is not None and self._since - _CLOCK_ERROR <= seen.born <= (
                self._named[pid] + _CLOCK_ERROR
            ):
                self._members[pid] = seen

    def _look_at_sessions(self, pids: set[int]) -> None:
        # Another process may have got the pid of a leader, and have begun a session since.
        self._sessions -= {
            pid for pid in self._sessions & pids - self._members.keys() if _see(pid) is not None
        }
        self._sessions |= {_session(pid) for pid in self._members} - {_session(os.getpid()), 0}


@dc.dataclass(frozen=True, slots=True)
class _Seen:
    """What a process was when it was seen first; it may have ended since."""

    process: psutil.Process
    born: float
    ppid: int
    session: int

    @classmethod
    def of(cls, process: psutil.Process) -> _Seen:
        """Look at a process.

        Raises
        ------
        psutil.NoSuchProcess
            If it is gone.
        """
        return cls(process, clock.born(process), process.ppid(), _session(process.pid))


def is_alive(pid: int, moment: float) -> bool:
    """Tell whether the process still runs that had a pid at a time."""
    seen = _see(pid)
    return seen is not None and seen.born <= moment + _CLOCK_ERROR


def _see(pid: int) -> _Seen | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return _Seen.of(process)
    except (psutil.Error, OverflowError, ValueError):
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except (OSError, AttributeError):
        return 0


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (OSError, AttributeError):
        return 0
