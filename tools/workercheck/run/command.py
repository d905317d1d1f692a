"""Run any command with the recorder on, and leave no process of it behind."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses as dc
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.run import reaper
from workercheck.run.leftovers import end_all
from workercheck.run.questions import Questions
from workercheck.run.terminal import Foreground
from workercheck.run.watch import POLL, RESPAWNS, Watch

STALLED = 15.0
"""Seconds without a moment of work, after which a command that has lost work waits for it."""

_PATIENCE = 5.0
"""Seconds that a command gets to end after each signal."""
_BUSY = 0.01
"""Seconds of processor time between two looks, from which on a command works."""
_LOOK = 1.0
"""Seconds between two looks at the processor time."""


@dc.dataclass(frozen=True, slots=True)
class CommandRun:
    """What the run of a command left."""

    argv: tuple[str, ...]
    status: int
    """Its exit status, as a shell gives it."""
    cut_short: str
    """Why it was ended, empty where it ended by itself."""
    events: list[ev.Event]
    seconds: float


def run_command(
    argv: Sequence[str],
    *,
    has_failed: Callable[[list[ev.Event]], bool],
    answer: Callable[[dict[str, Any], list[ev.Event]], object],
) -> CommandRun:
    """Run a command to its end.

    Parameters
    ----------
    argv
        The command. Its streams and its terminal are those of this process.
    has_failed
        Tells from the events so far whether work was lost that was not expected to.
    answer
        Answers a question of the command's, from the events so far.

    Raises
    ------
    OSError
        If the command cannot be started, or the folder for temporary files cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix="workercheck-"))
    with reaper.watching(folder), Foreground() as program:
        evidence_folder = folder / "evidence"
        evidence_folder.mkdir()
        evidence = Evidence(evidence_folder).create()
        with Questions(evidence_folder) as questions:
            return _Command(argv, evidence, program, questions, has_failed, answer).run()


class _Command:
    def __init__(
        self,
        argv: Sequence[str],
        evidence: Evidence,
        program: Foreground,
        questions: Questions,
        has_failed: Callable[[list[ev.Event]], bool],
        answer: Callable[[dict[str, Any], list[ev.Event]], object],
    ) -> None:
        self.argv = tuple(argv)
        self.evidence = evidence
        self.program = program
        self.questions = questions
        self.answer = answer
        self.watch = Watch(evidence, Path.cwd(), has_failed)
        self.read = 0
        self.pools: dict[int, tuple[int, int]] = {}
        """By the pid of a worker that replaces one that failed: the process and the place for which
        its pool was made."""
        self.failed = collections.defaultdict[tuple[int, int], set[int]](set)
        """The workers of a place that failed."""
        self.worked_at = time.monotonic()
        self.spent = 0.0
        self.next_look = 0.0

    def run(self) -> CommandRun:
        started = time.monotonic()
        self.program.start(self.argv, os.environ | self.evidence.environ)
        self.watch.tree.begin(self.program.pid)
        cut_short = ""
        try:
            while not self._wait():
                if not cut_short and (cut_short := self._why_to_end()):
                    self._end()
            ended_well = not (cut_short or self.program.was_signalled)
            if ended_well:
                self.watch.last_look()
        finally:
            self.evidence.append(ev.ShutdownStarted)
            asyncio.run(
                end_all(
                    self.watch.tree,
                    self.evidence,
                    set(self.watch.tree.all()),
                    is_cut_short=bool(cut_short or self.program.was_signalled),
                )
            )
        self.evidence.read(final=True)
        seconds = time.monotonic() - started
        self.evidence.append(
            ev.Finished,
            date=time.time(),
            seconds=seconds,
            language="python",
            interrupted=not cut_short and self.program.was_signalled,
        )
        return CommandRun(
            self.argv, self.program.status or 0, cut_short, self.evidence.read(), seconds
        )

    def _wait(self) -> bool:
        """Wait a moment for the end of the command, and look; tell whether it has ended."""
        if self.program.wait(POLL, self.questions.sockets):
            return True
        self.questions.answer(self._answer)
        self.watch.look()
        return False

    def _answer(self, question: dict[str, Any]) -> object:
        self.evidence.ask_again()
        self.watch.read()
        answer = self.answer(question, self.evidence.read())
        self.watch.look_again()
        return answer

    def _why_to_end(self) -> str:
        """Say why the command cannot come to an end by itself, empty where it may."""
        if self.watch.failed_at is None:
            return ""
        events = self.evidence.read()
        for event in events[self.read :]:
            if isinstance(event, ev.ChildStarted) and event.replaces:
                self.pools[event.child] = (event.pid, event.place)
            elif (pid := _failed_process(event)) in self.pools:
                self.failed[self.pools[pid]].add(pid)
        now = time.monotonic()
        if len(events) > self.read:
            self.worked_at = now
        self.read = len(events)
        if any(len(workers) > RESPAWNS for workers in self.failed.values()):
            return f"{RESPAWNS} workers of one pool failed, each in the place of the one before"
        if now > self.next_look:
            self.next_look = now + _LOOK
            spent = self._processor_time()
            if abs(spent - self.spent) > _BUSY:
                self.worked_at = now
            self.spent = spent
        if now - max(self.worked_at, self.watch.failed_at) > STALLED:
            return f"it lost work, and has done nothing but wait for {STALLED:g} s"
        return ""

    def _processor_time(self) -> float:
        spent = 0.0
        for process in self.watch.tree.look():
            with contextlib.suppress(psutil.Error):
                spent += sum(process.cpu_times()[:2])
        return spent

    def _end(self) -> None:
        """End the command, which may have something to say at its end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            self.program.send(number)
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline:
                if self._wait():
                    return


def _failed_process(event: ev.Event) -> int:
    """Return the pid of a process that failed by itself, or 0.

    One that cannot say why it failed, as its standard error is closed, still has its exit code.
    """
    if isinstance(event, ev.LoadFailed | ev.Raised):
        return event.pid
    if isinstance(event, ev.Exited) and event.exitcode > 0:
        return event.child
    return 0
