"""The evidence of one run: its folder, its events so far, and whether any were lost."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any

from workercheck.evidence.records import Damaged, Event, dumps, loads
from workercheck.recorder import events as _events


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
        self._own: set[str] = set()
        self._lost: list[str] = []

    def create(self) -> Evidence:
        """Make the files that the recorder expects.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        self.file.touch()
        self._intact.touch()
        return self

    @property
    def environ(self) -> dict[str, str]:
        """The environment variable that switches the recorder on, for the kernel."""
        return {_events.ENV: str(self.folder)}

    def append(self, cls: type[Event], **fields: Any) -> None:
        """Write an event seen from outside the page's processes."""
        line = dumps(cls(pid=os.getpid(), time=time.time(), **fields))
        self._own.add(line)
        try:
            fd = os.open(self.file, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, line.encode("ascii") + b"\n")
            finally:
                os.close(fd)
        except OSError as exc:
            self._lost.append(f"{exc.strerror}: an event could not be written")

    def read(self) -> list[Event]:
        """Return the events so far, in the order in which they were written.

        Evidence that was lost, or that the page has tampered with, shows as `Damaged`.
        """
        try:
            if not stat.S_ISREG(self.file.lstat().st_mode):  # /dev/full has no end
                raise OSError(errno.EINVAL, "no regular file any more")
            text = self.file.read_text(encoding="utf-8", errors="backslashreplace")
        except OSError as exc:
            text = ""
            self._lost.append(f"{exc.strerror}: the file of the events")
        events = loads(text)
        if not self._intact.exists():
            self._lost.append("an event could not be written; is the disk full?")
        if not self._own <= set(text.splitlines()):
            self._lost.append("lines are missing that were written")
        events += [Damaged(pid=0, time=time.time(), reason=reason) for reason in self._lost[:1]]
        return events
