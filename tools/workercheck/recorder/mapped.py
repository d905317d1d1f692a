"""What a process is doing, and what it sent, in files that outlive it.

Each process maps files into its memory: writing to them costs no system call, and what was written
stays when the process is killed. ``doing-PID-NS`` holds what the process does now; ``sent-PID-NS``
is a ring of the fingerprints of the messages that it made; ``runs-PID-NS`` is a ring of where it
handed out work that an executor numbers, see `workercheck.recorder.numbered`.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

import os
from _struct import Struct
from binascii import crc32

from workercheck.recorder import events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from typing import Any

DOING = "doing"
SENT = "sent"
RUNS = "runs"

IDLE, LOADING, WORKING = 0, 1, 2

DOING_HEAD = Struct("<B7xQ")
"""What the process does, and the fingerprint of the message; the message's first bytes follow.

Of a message that is there as a whole, its size is enough: see `fingerprint_in`."""
DOING_SIZE = 4096

SENT_RECORD = Struct("<QQQQ")
"""The fingerprint of a message, its place, the fingerprint of the message that it answers, or is
sent on behalf of, and when it was made, in nanoseconds of the clock of the events.

In the ring of runs, `numbered` of the first work of a run, with its pool in the place of the pid,
stands where the fingerprint is."""
SENT_COUNT = 2048
"""Records in a ring."""

REPLY = 1 << 32
"""In the place of a record: the message is a result."""

NUMBERED = 1 << 31
"""In what a message is known by: it is the number of its work, and the pid of a process that gets
work of the same executor, and no fingerprint."""
_SIZE = NUMBERED - 1

_EDGE = 4096
_HEAD_LIMIT = DOING_SIZE - DOING_HEAD.size
pack_doing = DOING_HEAD.pack_into
pack_record = SENT_RECORD.pack_into
_Kept = events.Kept


def fingerprint(message: "Any") -> int:
    """Return a number that tells a message from others: of its length and its bytes.

    Parameters
    ----------
    message : bytes-like
        Of a long one, the first and the last 4096 bytes count.

    Returns
    -------
    int
        From 1 to 2**64 - 1.
    """
    size = len(message)
    if size <= 2 * _EDGE:
        return crc32(message) << 32 | size or 1
    checksum = crc32(message[-_EDGE:], crc32(message[:_EDGE]))
    return checksum << 32 | size & _SIZE or 1


def numbered(work_id: int, pid: int) -> int:
    """Return what a message is known by that carries the number of its work.

    Parameters
    ----------
    work_id
        The number, by which its executor knows the work.
    pid
        Of a process that gets work of the executor: each executor begins to count with 0.

    Returns
    -------
    int
        Up to 2**64 - 1, and no fingerprint of any message.
    """
    return (work_id & 0xFFFFFFFF) << 32 | NUMBERED | pid & _SIZE


def divided(number: int) -> tuple[int, int]:
    """Return what `numbered` has put together: the number of the work, and the pid."""
    return number >> 32, number & _SIZE


def fingerprint_in(doing: bytes) -> int:
    """Return the fingerprint of the message in the mapped bytes of a process, 0 where none is."""
    _, number = DOING_HEAD.unpack_from(doing)
    if number > _HEAD_LIMIT:
        return int(number)
    return fingerprint(doing[DOING_HEAD.size :][:number]) if number else 0


def begin_long(doing: "Any", message: "Any") -> int:
    """Note that this process loads a message that is longer than the mapped bytes.

    Returns
    -------
    int
        Its fingerprint.
    """
    doing[DOING_HEAD.size :] = message[:_HEAD_LIMIT]
    loaded = fingerprint(message)
    pack_doing(doing, 0, LOADING, loaded)
    return loaded


def map_doing() -> "Any":
    """Return the bytes that tell what this process does."""
    return _map(DOING, DOING_SIZE)


def map_ring(name: str) -> "tuple[Any, Any]":
    """Return the bytes of a ring, `SENT` or `RUNS`, and where each of its records goes."""
    import itertools

    size = SENT_COUNT * SENT_RECORD.size
    return _map(name, size), itertools.cycle(range(0, size, SENT_RECORD.size))


def _map(name: str, size: int) -> "Any":
    try:
        import mmap

        path = events.folder + "/%s-%d-%d" % (name, _Kept.getpid(), _Kept.clock_ns())
        fd = _Kept.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Written, not truncated: a sparse page on a full disk would raise SIGBUS.
            if _Kept.write(fd, bytes(size)) != size:
                raise OSError("short write")
            return mmap.mmap(fd, size)
        finally:
            _Kept.close(fd)
    except Exception as exc:
        events.failed(name, exc)
        return bytearray(size)
