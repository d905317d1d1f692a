"""What a process is doing, and which messages it sent, in files that outlive it.

Each process maps two files into its memory: writing to them costs no system call, and what was
written stays when the process is killed. ``doing-PID-NS`` holds what the process does now;
``sent-PID-NS`` is a ring of the fingerprints of the messages that it made.

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

IDLE, LOADING, WORKING = 0, 1, 2

DOING_HEAD = Struct("<B7xQ")
"""What the process does, and the fingerprint of the message; the message's first bytes follow."""
DOING_SIZE = 4096

SENT_RECORD = Struct("<QQQQ")
"""The fingerprint of a message, its place, the fingerprint of the message that it answers, or is
sent on behalf of, and when it was made, in nanoseconds of the clock of the events."""
SENT_COUNT = 2048
"""Records in the ring."""

REPLY = 1 << 32
"""In the place of a record: the message is a result."""

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
    return checksum << 32 | size & 0xFFFFFFFF or 1


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


def map_sent() -> "tuple[Any, Any]":
    """Return the bytes for the messages that this process makes, and where each record goes."""
    import itertools

    size = SENT_COUNT * SENT_RECORD.size
    return _map(SENT, size), itertools.cycle(range(0, size, SENT_RECORD.size))


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
