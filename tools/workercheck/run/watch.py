"""Watch a page while it runs: whether it has failed, and what its processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.run.processes import ProcessTree, is_alive
from workercheck.run.unwatched import UnwatchedProcesses

GRACE = 4.0
"""Seconds that a cell gets to fail by itself after a worker of its page has failed."""

RESPAWNS = 20
"""Workers that fail in the place of another one that failed, from which on that has no end."""

POLL = 0.2
"""Seconds between two looks at the evidence."""

_SCAN = 1.0
FAILURES = (
    ev.LoadFailed,
    ev.PickleFailed,
    ev.PoolBroken,
    ev.Exited,
    ev.EndedAtWork,
    ev.Raised,
)
"""What may be a failure; only the judge can tell."""


class Watch:
    """What is known of a page that runs.

    Parameters
    ----------
    evidence
        That of the page's run.
    cwd
        The folder in which its kernel runs.
    has_failed
        Tells from the events so far whether the page can no longer pass.
    """

    def __init__(
        self, evidence: Evidence, cwd: Path, has_failed: Callable[[list[ev.Event]], bool]
    ) -> None:
        self.evidence = evidence
        self.tree = ProcessTree(evidence.folder)
        self.failed_at: float | None = None
        """When the page had failed, as `time.monotonic` counts, None while it has not."""
        self.token: str | None = None
        """The word with which the kernel is to answer when it is asked for its last words."""
        self.has_last_words = False
        """Whether the kernel has nothing more to say."""
        self.is_damaged = False
        """Whether evidence was lost, so that the last words may be lost as well."""
        self.is_kernel_watched = False
        self._has_failed = has_failed
        self._unwatched = UnwatchedProcesses(evidence, self.tree, cwd)
        self._read = 0
        self._may_have_failed = False
        self._replacements: set[int] = set()
        """The workers that took the place of one that had failed."""
        self._failed_since: set[int] = set()
        """Those of them that failed as well, after the page had."""
        self._next_judgment = 0.0
        self._next_scan = 0.0

    def look(self) -> None:
        """Read what came since the last look; now and then, look at the processes as well."""
        self.read()
        now = time.monotonic()
        if now >= self._next_scan:
            self._next_scan = now + _SCAN
            self.scan()
        if self._may_have_failed and self.failed_at is None and now >= self._next_judgment:
            self._may_have_failed = False
            if self._has_failed(self.evidence.read()):
                self.failed_at = now
            self._next_judgment = time.monotonic() + POLL

    def read(self) -> None:
        """Read what came since the last look."""
        events = self.evidence.read()
        new = events[self._read :]
        self._read = len(events)
        self.tree.learn(new)
        self._unwatched.learn(new)
        for event in new:
            if isinstance(event, FAILURES):
                self._may_have_failed = True
                if self.failed_at is not None:
                    child = event.child if isinstance(event, ev.Exited) else event.pid
                    if child in self._replacements:
                        self._failed_since.add(child)
            elif isinstance(event, ev.ChildStarted) and event.replaces:
                self._replacements.add(event.child)
            elif isinstance(event, ev.LoadRetried) or (
                isinstance(event, ev.MessageSent) and event.corrects
            ):
                # What seemed to be lost was not, or was another cell's.
                self.failed_at = None
                self._may_have_failed = True
            elif isinstance(event, ev.ProcessStarted):
                self.is_kernel_watched |= not event.forked
            elif isinstance(event, ev.LastWords):
                self.has_last_words |= event.token == self.token
            elif isinstance(event, ev.Damaged):
                self.is_damaged = True

    def scan(self) -> None:
        """Look at the processes: which there are, which do not watch, which ended at work."""
        processes = self.tree.look()
        self._unwatched.look(processes)
        # Those that end because their kernel has are no cause of anything.
        if not self.tree.kernel_has_ended:
            self.evidence.note_ended(self._is_alive)

    def look_again(self) -> None:
        """Ask anew whether the page has failed: what it lost may have been told meanwhile."""
        if self.failed_at is not None and not self._has_failed(self.evidence.read()):
            self.failed_at = None

    def must_stop(self, cell_started: float) -> bool:
        """Tell whether a page that has failed waits for what will not come.

        Parameters
        ----------
        cell_started
            When the cell began that runs, as `time.monotonic` counts.
        """
        if self.failed_at is None:
            return False
        return self.waited(cell_started) > GRACE or len(self._failed_since) > RESPAWNS

    def waited(self, began: float) -> float:
        """Return for how many seconds what began then has gone on since the page failed."""
        return time.monotonic() - max(self.failed_at or 0.0, began)

    @property
    def is_process_awaited(self) -> bool:
        """Whether a process has not yet said that it watches, and may still do so."""
        return self._unwatched.are_awaited

    def last_look(self) -> None:
        """Look at the processes before they are asked to end."""
        self.read()
        ended = self._unwatched.ended()
        self.read()  # what they said before they ended
        self._unwatched.look_at_ended(ended)
        self.scan()

    def _is_alive(self, pid: int, moment: float) -> bool:
        # One that ends while the kernel does is none that ended at work.
        return is_alive(pid, moment) or self.tree.kernel_has_ended
