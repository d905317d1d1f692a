"""The evidence of one run: its folder, its events so far, and whether any were lost."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workercheck.evidence.mapped import MappedFiles, Runs, Sent
from workercheck.evidence.records import (
    ChildStarted,
    Damaged,
    EndedAtWork,
    Event,
    LoadFailed,
    MessageSent,
    PickleFailed,
    PlaceWithin,
    ProcessStarted,
    Unseen,
    dumps,
    parse,
)
from workercheck.recorder import events as _events
from workercheck.recorder import mapped as _mapped

CAREFULLY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
"""Flags that open a file of a page's folder: neither follow what the page puts there instead, nor
wait for the other end of a pipe."""

_TAIL = 256
"""Bytes that are read again, to see that they are the same."""

_LIMIT = 1 << 28
"""Bytes that no run writes between two looks; a hole in a file may have any size."""


_AGAIN = 2.0
"""Seconds after which it is asked again who handed numbered work out.

Its worker may have failed before the process that handed it out has noted from where."""

_Wanted = tuple[int, float, int]
"""A fingerprint, the time until which its message was sent, in nanoseconds, and who got it."""


class Evidence:
    """The evidence of one run of a page, in a folder of its own.

    Parameters
    ----------
    folder
        An existing folder. `create` makes its files; the recorder appends to them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / _events.EVENTS
        self._intact = folder / _events.INTACT
        self._mapped = MappedFiles(folder)
        self._events: list[Event] = []
        self._offset = 0
        """Where the next line begins."""
        self._tail = b""
        """What stands before it."""
        self._identity: tuple[int, int] | None = None
        self._own: list[bytes] = []
        """The lines written from here that have not been read yet."""
        self._is_damaged = False
        self._known: set[tuple[str, int, float]] = set()
        """Events that are in a file that has to be read again, and were read."""
        self._explained = 0
        """Events, from the first on, whose messages were looked up."""
        self._not_found: set[_Wanted] = set()
        self._numbered: dict[_Wanted, Sent | None] = {}
        """Who handed numbered work out, as far as was known when it was asked last."""
        self._to_ask_again: deque[tuple[float, _Wanted]] = deque()
        """When to ask again who handed numbered work out, the earliest first."""
        self._parents: dict[int, int] = {}
        """By the pid of a process: that of its parent."""
        self._pools: dict[int, tuple[int, int]] = {}
        """By the pid of a worker: that of the process with its executor, and its pool there."""

    def create(self, project: Path | None = None) -> Evidence:
        """Make the files that the recorder expects.

        Parameters
        ----------
        project
            The folder whose files the run depends on, None for a run that nobody keeps.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        self.file.touch()
        self._intact.write_bytes(os.fsencode(project or b""))
        status = self.file.stat()
        self._identity = status.st_dev, status.st_ino
        return self

    @property
    def environ(self) -> dict[str, str]:
        """The environment variable that switches the recorder on, for the kernel."""
        return {_events.ENV: str(self.folder)}

    def append(self, cls: type[Event], **fields: Any) -> None:
        """Write an event seen from outside the page's processes."""
        line = dumps(cls(pid=os.getpid(), time=_events.Kept.clock(), **fields)).encode("ascii")
        self._own.append(line)
        try:
            fd = os.open(self.file, os.O_WRONLY | os.O_APPEND | CAREFULLY)
            try:
                if os.write(fd, line + b"\n") != len(line) + 1:
                    raise OSError(errno.ENOSPC, "only a part was written")
            finally:
                os.close(fd)
        except OSError as exc:
            self._damaged(f"{_why(exc)}: an event could not be written")

    def read(self, *, final: bool = False) -> list[Event]:
        """Return the events so far, in the order in which they were written.

        Only what came since the last call is read. Who sent a message that failed is looked up,
        and is an event as well.

        Parameters
        ----------
        final
            Nothing more will be written: a line without an end is damage, and it is asked once
            more who sent what nobody seemed to have sent, and who handed numbered work out.

        Returns
        -------
        list of Event
            Always the same list, which grows. Evidence that was lost, or that the page has
            tampered with, is `Damaged` in it.
        """
        self._take(final)
        wanted = self._not_explained() | self._due()
        if final:
            wanted |= self._numbered.keys()
            # Also what was sent later, by a clock that has been set back meanwhile.
            wanted |= {(number, float("inf"), to) for number, _, to in self._not_found}
        while self._look_up(wanted):
            self._take(final)
            wanted = self._not_explained()
        return self._events

    def ask_again(self) -> None:
        """Have the next read ask anew who handed numbered work out.

        Whoever has handed it out meanwhile does something else, and has noted from where it was.
        """
        self._to_ask_again = deque((0.0, asked) for _, asked in self._to_ask_again)

    def note_ended(self, is_alive: Callable[[int, float], bool]) -> None:
        """Write an event for each process that is gone and had a message to load or to work on.

        Parameters
        ----------
        is_alive
            As for `MappedFiles.ended_at_work`.
        """
        for fields in self._mapped.ended_at_work(is_alive):
            self.append(EndedAtWork, **fields)

    def _take(self, final: bool) -> None:
        """Read the lines that came since the last call."""
        try:
            content = self._new_content()
        except (OSError, MemoryError) as exc:
            self._damaged(f"{_why(exc)}: the file of the events")
            self._own.clear()
            return
        lines = content.split(b"\n")
        rest = lines.pop()
        for line in lines:
            self._take_line(line)
        if rest and final:
            self._damaged("the last line has no end")
        taken = content if final else content[: len(content) - len(rest)]
        self._offset += len(taken)
        self._tail = (self._tail + taken[-_TAIL:])[-_TAIL:]
        if self._own and not self._is_damaged:
            self._damaged("lines are missing that were written")
        self._own.clear()
        if not os.path.exists(self._intact):  # noqa: PTH110, a Path raises in a closed folder
            self._damaged("an event could not be written; is the disk full?")

    def _new_content(self) -> bytes:
        fd = os.open(self.file, os.O_RDONLY | CAREFULLY)
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):  # /dev/full has no end
                raise OSError(errno.EINVAL, "no regular file any more")
            identity = status.st_dev, status.st_ino
            if self._identity not in (None, identity) or status.st_size < self._offset:
                self._begin_anew()
            self._identity = identity
            size = status.st_size - self._offset
            if size > _LIMIT:
                self._damaged("more was written than a run writes")
                self._offset, self._tail = status.st_size, b""
                return b""
            if not size:
                return b""
            file.seek(self._offset - len(self._tail))
            content = _read(file, len(self._tail) + size)
            if not content.startswith(self._tail):
                self._begin_anew()
                file.seek(0)
                return _read(file, min(status.st_size, _LIMIT))
            return content[len(self._tail) :]

    def _begin_anew(self) -> None:
        self._damaged("lines are missing that were written")
        self._offset, self._tail = 0, b""
        self._known = {(event.event, event.pid, event.time) for event in self._events}

    def _take_line(self, line: bytes) -> None:
        if self._own and line in self._own:
            self._own.remove(line)
        if line.strip():
            event = parse(line.decode("utf-8", "backslashreplace"))
            if self._is_damaged and isinstance(event, Damaged):
                return  # it was said
            if not self._known or (event.event, event.pid, event.time) not in self._known:
                self._events.append(event)

    def _damaged(self, reason: str) -> None:
        """Note, once, that evidence was lost."""
        if not self._is_damaged:
            self._is_damaged = True
            self._events.append(Damaged(pid=0, time=_events.Kept.clock(), reason=reason))

    def _not_explained(self) -> set[_Wanted]:
        events = self._events[self._explained :]
        self._explained = len(self._events)
        wanted = set()
        for event in events:
            if isinstance(event, ProcessStarted):
                self._parents[event.pid] = event.ppid
            elif isinstance(event, ChildStarted):
                self._pools[event.child] = event.pid, event.pool
            # Again for each event: two cells may send the same bytes, one after the other.
            elif number := _fingerprint(event):
                to = event.child if isinstance(event, EndedAtWork) else event.pid
                wanted.add((number, event.time * 1e9, to))
        return wanted

    def _near(self, pid: int) -> set[int]:
        """Return the processes above and below one: programs side by side may send the same."""
        above = set(self._above(pid))
        return above | {one for one in self._parents if pid in self._above(one)}

    def _above(self, pid: int) -> list[int]:
        found = [pid]
        while (pid := self._parents.get(pid, pid)) not in found:
            found.append(pid)
        return found

    def _due(self) -> set[_Wanted]:
        """Return the numbered work of which it is time to ask again."""
        now = time.monotonic()
        due = set()
        while self._to_ask_again and self._to_ask_again[0][0] <= now:
            due.add(self._to_ask_again.popleft()[1])
        return due

    def _look_up(self, wanted: set[_Wanted]) -> bool:
        """Write who sent messages, and for a result who sent the task; tell if any was found."""
        any_found = False
        runs: dict[int, Runs] = {}
        for fingerprint, before, to in sorted(wanted):
            self._not_found.discard((fingerprint, before, to))
            number, looked_up = fingerprint, {0}
            while number not in looked_up:
                looked_up.add(number)
                asked = number, before, to
                earlier = self._numbered.get(asked)
                sent = self._who_sent(asked, runs)
                if earlier is not None and (sent is None or not sent.corrects(earlier)):
                    break
                if number & _mapped.NUMBERED:
                    if asked not in self._numbered:
                        self._to_ask_again.append((time.monotonic() + _AGAIN, asked))
                    self._numbered[asked] = sent
                if sent is None:
                    self._not_found.add((fingerprint, before, to))
                    break
                any_found = True
                self.append(
                    MessageSent,
                    fingerprint=number,
                    to=to,
                    sender=sent.sender,
                    place=sent.place,
                    reply_to=sent.reply_to,
                    within=sent.within,
                    corrects=earlier is not None,
                )
                number = sent.reply_to or sent.within
        return any_found

    def _who_sent(self, wanted: _Wanted, runs: dict[int, Runs]) -> Sent | None:
        number, before, to = wanted
        if not number & _mapped.NUMBERED:
            return self._mapped.who_sent({number}, before, self._near(to)).get(number)
        work_id, worker = _mapped.divided(number)
        pid, pool = self._pools.get(worker, (0, 0))
        if pid not in runs:
            runs[pid] = self._mapped.runs_of(pid)
        return runs[pid].who_handed_out(work_id, pool)


def _fingerprint(event: Event) -> int:
    """Return the fingerprint of the message whose sender explains an event, 0 for other events."""
    if isinstance(event, LoadFailed | EndedAtWork | PlaceWithin):
        return event.fingerprint
    if isinstance(event, Unseen):
        return event.request
    return event.reply_to if isinstance(event, PickleFailed) else 0


def _read(file: Any, size: int) -> bytes:
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _why(exc: BaseException) -> str:
    if isinstance(exc, OSError):
        # A symbolic link is what O_NOFOLLOW refuses.
        return "no regular file any more" if exc.errno == errno.ELOOP else str(exc.strerror or exc)
    return type(exc).__name__
