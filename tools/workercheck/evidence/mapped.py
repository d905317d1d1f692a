"""Read the files that watched processes map into their memory: what each does, what each sent.

The files belong to the page, which may do anything to them: nothing here raises.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses as dc
import os
import pickletools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from workercheck.recorder import failure as _failure
from workercheck.recorder import mapped as _mapped

_KINDS = (_mapped.DOING, _mapped.SENT, _mapped.RUNS)
_NAME = re.compile(rf"({'|'.join(_KINDS)})-([1-9][0-9]{{0,8}})-([0-9]{{1,19}})")
_RECORD = _mapped.SENT_RECORD
_RING = _mapped.SENT_COUNT * _RECORD.size
_AT_WORK = (_mapped.LOADING, _mapped.WORKING)
_CHUNK = 4096
"""Bytes that are read at once: most processes send few messages."""


@dc.dataclass(frozen=True, slots=True)
class Sent:
    """Who sent a message."""

    sender: int
    """The pid."""
    place: int
    """A place of the sender, 0 where it is not known."""
    reply_to: int
    """For a result: the fingerprint of the message with the task, else 0."""
    within: int = 0
    """For what a worker handed out: the fingerprint of what it worked on, else 0."""
    run: tuple[int, int] = 0, 0
    """For numbered work: the number with which its run begins, and when that was noted."""

    @property
    def is_known(self) -> bool:
        """Tell whether the sender knew for which work it was."""
        return bool(self.place or self.reply_to)

    def corrects(self, earlier: Sent) -> bool:
        """Tell whether the sender said something else before it had noted this."""
        is_other = (self.place, self.within) != (earlier.place, earlier.within)
        return is_other and self.run > earlier.run


class Runs:
    """Where one process has handed out work that its executors number.

    Parameters
    ----------
    pid
        Of the process.
    records
        Of its ring of runs.
    """

    def __init__(self, pid: int, records: Iterable[tuple[int, ...]]) -> None:
        self._pid = pid
        self._of_pools: dict[int, list[tuple[int, int, int, int]]] = {}
        for known_by, place, within, moment in records:
            first, pool = _mapped.divided(known_by)
            self._of_pools.setdefault(pool, []).append((first, moment, place, within))
        for runs in self._of_pools.values():
            runs.sort()

    def who_handed_out(self, number: int, pool: int) -> Sent | None:
        """Look work up by its number, None where it is not known where it was handed out.

        Parameters
        ----------
        number
            Of the work, as its executor counts.
        pool
            The number of the executor's pool in this process.
        """
        runs = self._of_pools.get(pool, [])
        index = bisect.bisect_left(runs, (number + 1,))
        if not index:
            return None
        first, moment, place, within = runs[index - 1]
        return Sent(self._pid, place, 0, within, (first, moment))


@dc.dataclass(frozen=True, slots=True)
class _File:
    kind: str
    pid: int
    ns: int
    """When the process made it, in nanoseconds of the clock of the events."""
    path: str

    def read(self) -> bytes:
        """Return the content; of a ring, up to its last record and some empty ones."""
        content = b""
        with contextlib.suppress(OSError), Path(self.path).open("rb", buffering=0) as file:
            limit = _mapped.DOING_SIZE if self.kind == _mapped.DOING else _RING
            while len(content) < limit and (part := file.read(_CHUNK)):
                content += part
                if not any(part[-_RECORD.size :]):
                    break
        return content


class MappedFiles:
    """The mapped files in the folder of a run's evidence.

    Parameters
    ----------
    folder
        Where the processes of the run make them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done: set[str] = set()
        """The files, by path, of processes that are gone."""
        self._rings: list[tuple[_File, bytes]] = []
        """The rings of processes that are gone. A file of each would fill the disk."""

    def who_sent(
        self,
        fingerprints: Collection[int],
        before: float = float("inf"),
        near: Collection[int] = (),
    ) -> dict[int, Sent]:
        """Look messages up by their fingerprints; those that nobody sent are left out.

        Of the messages of a process with the same bytes, the latest counts; of several processes,
        a near one, and of those one that knew for which work it was.

        Parameters
        ----------
        fingerprints
            Of the messages.
        before
            Nanoseconds of the clock of the events: what was sent later is another message.
        near
            The pids from which the message most likely came.
        """
        found: dict[int, Sent] = {}
        ranks: dict[int, tuple[bool, bool]] = {}
        wanted = set(fingerprints) - {0}
        if not wanted:
            return found
        for file, ring in self._rings_of(_mapped.SENT):
            for fingerprint, sent in _latest(file.pid, ring, wanted, before).items():
                rank = file.pid in near, sent.is_known
                known = ranks.get(fingerprint)
                if known is None or rank > known or (rank == known and sent.is_known):
                    ranks[fingerprint], found[fingerprint] = rank, sent
        return found

    def runs_of(self, pid: int) -> Runs:
        """Return where a process has handed out numbered work, as far as it has noted it."""
        rings = self._rings_of(_mapped.RUNS, pid)
        return Runs(pid, (record for _, ring in rings for record in _records(ring)))

    def _rings_of(self, kind: str, pid: int | None = None) -> list[tuple[_File, bytes]]:
        """Return the rings of one process, or of all, the oldest process first."""

        def is_wanted(file: _File) -> bool:
            return file.kind == kind and pid in (None, file.pid)

        rings = [(file, file.read()) for file in self._files() if is_wanted(file)]
        rings += [ring for ring in self._rings if is_wanted(ring[0])]
        return sorted(rings, key=lambda ring: ring[0].ns)

    def ended_at_work(self, is_alive: Callable[[int, float], bool]) -> Iterator[dict[str, Any]]:
        """Yield the fields of an `EndedAtWork` for each process that ended while it had a message.

        The files of processes that are gone are deleted, so that a later look stays cheap.

        Parameters
        ----------
        is_alive
            Tells whether the process still runs that had a pid at a time, in seconds since the
            epoch.
        """
        files = list(self._files())  # before the processes: the others cannot have begun later
        for file in files:
            if is_alive(file.pid, file.ns / 1e9):
                continue
            content = file.read()
            self._done.add(file.path)
            with contextlib.suppress(OSError):
                os.unlink(file.path)  # noqa: PTH108
            if file.kind != _mapped.DOING:
                self._rings.append((file, content.rstrip(b"\0")))
            elif (ended := _what_it_did(file.pid, content)) is not None:
                yield {"child": file.pid, **ended}

    def _files(self) -> Iterator[_File]:
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None or entry.path in self._done:
                    continue
                with contextlib.suppress(OSError):
                    # Neither a folder, nor a pipe that would keep whoever opens it.
                    if entry.is_file(follow_symlinks=False):
                        yield _File(match[1], int(match[2]), int(match[3]), entry.path)


def _records(ring: bytes) -> Iterator[tuple[int, ...]]:
    return _RECORD.iter_unpack(ring + bytes(-len(ring) % _RECORD.size))


def _latest(pid: int, ring: bytes, wanted: set[int], before: float) -> dict[int, Sent]:
    found: dict[int, tuple[int, Sent]] = {}
    for fingerprint, place, reply_to, moment in _records(ring):
        if fingerprint in wanted and found.get(fingerprint, (1,))[0] <= moment <= before:
            number = place & (_mapped.REPLY - 1)
            is_reply = bool(place & _mapped.REPLY)
            sent = Sent(pid, number, reply_to, 0) if is_reply else Sent(pid, number, 0, reply_to)
            found[fingerprint] = moment, sent
    return {fingerprint: sent for fingerprint, (_, sent) in found.items()}


def _what_it_did(pid: int, content: bytes) -> dict[str, Any] | None:
    """Read what a process did when it ended, None where it was idle."""
    if len(content) < _mapped.DOING_HEAD.size or content[0] not in _AT_WORK:
        return None
    fingerprint = _mapped.fingerprint_in(content)
    # Without a fingerprint the bytes came from a file, and those here are of an older message.
    message = content[_mapped.DOING_HEAD.size :] if fingerprint else b""
    number = _failure.work_id_of(message)
    return {
        "is_loading": content[0] == _mapped.LOADING,
        "fingerprint": fingerprint if number is None else _mapped.numbered(number, pid),
        "globals": list(_failure.names_in(message, pickletools.genops)),
    }
