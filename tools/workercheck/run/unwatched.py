"""Find the Python processes of a run in which the recorder does not run."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.recorder import events as _events
from workercheck.run import clock, interpreters
from workercheck.run.leftovers import is_tracker
from workercheck.run.processes import ProcessTree, is_alive

UNWATCHED_AFTER = 2.0
"""Seconds after which a Python process that has not said that it watches does not."""

STARTS_WITHIN = 20.0
"""Seconds in which a process that is bound to start the recorder does so, on a busy machine."""

_NO_PROGRAM = re.compile(
    "|".join(
        pattern
        for library in libraries.LIBRARIES
        for pattern in (library.service, *(command for command, _ in library.commands))
        if pattern
    )
)
"""The command lines of what libraries start by themselves."""


@dc.dataclass(frozen=True, slots=True)
class Program:
    """A program that was started."""

    pid: int
    moment: float
    """When it ran, in seconds of the clock of the events."""
    argv: list[str]


@dc.dataclass(slots=True)
class _Silent:
    """A Python process of the kernel's environment that has not said that it watches."""

    since: float
    """When it was seen first, in seconds of the clock of the events."""
    argv: list[str]
    is_copy: bool
    """Whether its command is its parent's: so is that of a process about to become a program."""
    will_watch: bool
    """Whether all is there that makes it start the recorder, before it can take any work."""

    @property
    def is_starting(self) -> bool:
        patience = STARTS_WITHIN if self.will_watch else UNWATCHED_AFTER
        return clock.now() - self.since < patience


class UnwatchedProcesses:
    """The Python processes of a run that the recorder does not watch.

    Parameters
    ----------
    evidence
        Where an event is written for each.
    tree
        The processes of the run.
    cwd
        The folder in which the kernel runs.
    """

    def __init__(self, evidence: Evidence, tree: ProcessTree, cwd: Path) -> None:
        self._evidence = evidence
        self._tree = tree
        self._cwd = str(cwd)
        self._environment: str | None = None
        """That of the kernel, None as long as it has not said that it watches."""
        self._watched: set[int] = set()
        self._forked: dict[int, list[str]] = {}
        """The beginning of the command of forked processes that watch, which may change it."""
        self._programs: list[ev.ChildStarted] = []
        self._signals: dict[int, float] = {}
        self._silent: dict[int, _Silent] = {}
        self._with_workers: dict[int, float] = {}
        """When a process of another environment was first seen with a worker of its own."""
        self._told: set[int] = set()

    def learn(self, events: Sequence[ev.Event]) -> None:
        """Take from new events which processes watch, and which programs were started."""
        for event in events:
            if isinstance(event, ev.ProcessStarted):
                if self._environment is None and not event.forked:
                    self._environment = interpreters.environment_of(event.executable)
                if event.forked:
                    self._forked[event.pid] = event.argv
                else:
                    self._watched.add(event.pid)
            elif isinstance(event, ev.ChildStarted) and event.argv:
                self._programs.append(event)
            elif isinstance(event, ev.SignalSent) and event.signal:
                self._signals[event.child] = event.time

    def look(self, processes: Sequence[psutil.Process]) -> None:
        """Write an event for each of the processes that has had the time to say that it watches."""
        if self._environment is None:
            return
        for process in processes:
            with contextlib.suppress(psutil.Error):
                self._look_at(process, processes)

    @property
    def are_awaited(self) -> bool:
        """Whether a process that has not said that it watches may still do so."""
        return any(
            silent.is_starting
            and pid not in self._told
            and not self._is_watched(pid, silent.argv)
            and is_alive(pid, silent.since)
            for pid, silent in self._silent.items()
        )

    def ended(self) -> list[Program]:
        """Return the programs that have ended: whatever they had to say is written by now."""
        seen = [Program(e.child, e.time, e.argv) for e in self._programs]
        seen += [
            Program(pid, silent.since, silent.argv)
            for pid, silent in self._silent.items()
            if not silent.is_copy
        ]
        return [program for program in seen if not is_alive(program.pid, program.moment)]

    def look_at_ended(self, ended: Sequence[Program]) -> None:
        """Write an event for each program that ended and never said that it watched.

        Parameters
        ----------
        ended
            What `ended` returned before the latest events were read.
        """
        for program in ended:
            signal = self._signals.get(program.pid, 0.0)
            was_ended = program.moment <= signal < program.moment + UNWATCHED_AFTER
            silent = self._silent.get(program.pid)
            if (
                was_ended
                or (
                    silent is not None
                    and silent.will_watch
                    and interpreters.runs_site(program.argv)
                )
                or self._is_watched(program.pid, program.argv)
                or not interpreters.runs_code(program.argv)
            ):
                continue
            executable = interpreters.path_of(program.argv[0], cwd=self._cwd)
            if (
                executable is not None
                and interpreters.is_python(executable)
                and interpreters.environment_of(executable) == self._environment
            ):
                self._tell(program.pid, program.argv)

    def _look_at(self, process: psutil.Process, processes: Iterable[psutil.Process]) -> None:
        pid = process.pid
        if pid in self._told or pid in self._watched:
            return
        argv = process.cmdline()
        if not argv or self._is_watched(pid, argv) or not interpreters.is_python(process.exe()):
            self._silent.pop(pid, None)
            return
        environ = process.environ()
        executable = interpreters.path_of(
            argv[0], cwd=process.cwd(), path=environ.get("PATH", os.defpath)
        )
        folder = environ.get(_events.ENV)
        if executable is None or self._is_of_another_run(folder):
            return
        environment = interpreters.environment_of(executable)
        now = clock.now()
        if environment != self._environment:
            # At the second look: one that is about to become a program looks like a forked one.
            if self._has_workers(process, argv, processes) and (
                now > self._with_workers.setdefault(pid, now)
            ):
                self._tell(pid, argv, environment)
            return
        silent = self._silent.get(pid)
        if silent is None or silent.argv != argv:
            is_copy = _command(process.parent()) == argv
            will_watch = (
                not is_copy
                and folder == str(self._evidence.folder)
                and interpreters.runs_site(argv)
            )
            silent = _Silent(now, argv, is_copy, will_watch)
        self._silent[pid] = silent
        if not silent.is_starting:
            self._tell(pid, argv)

    def _is_watched(self, pid: int, argv: Sequence[str]) -> bool:
        """Tell whether a process said that it watches, and has not become another program since."""
        said = self._forked.get(pid)
        return pid in self._watched or (
            said is not None
            and [_events.text(word)[:200] for word in argv[1 : len(said)]] == said[1:]
        )

    def _is_of_another_run(self, folder: str | None) -> bool:
        """Tell whether the page itself watches what it runs, as `workercheck` does."""
        return bool(folder) and not Path(str(folder)).is_relative_to(self._evidence.folder)

    def _has_workers(
        self, process: psutil.Process, argv: list[str], processes: Iterable[psutil.Process]
    ) -> bool:
        """Tell whether a process is a program, with Python processes below it that are none."""
        if _NO_PROGRAM.search(" ".join(argv)) or _command(process.parent()) == argv:
            return False
        for child in processes:
            with contextlib.suppress(psutil.Error):
                if child.ppid() == process.pid and not is_tracker(child):
                    command = child.cmdline()
                    if command == argv or _NO_PROGRAM.search(" ".join(command)):
                        return True
        return False

    def _tell(self, pid: int, argv: Sequence[str], environment: str | None = None) -> None:
        if pid in self._told:
            return
        self._told.add(pid)
        command = interpreters.program(argv)[:200]
        self._evidence.append(ev.Unwatched, child=pid, command=command, environment=environment)


def _command(process: psutil.Process | None) -> list[str] | None:
    try:
        return process.cmdline() if process is not None else None
    except psutil.Error:
        return None
