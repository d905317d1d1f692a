"""The seal of a kept run: whether it is as it was written, and by somebody who has the key."""

from __future__ import annotations

import hashlib
import hmac
import os

KEY = "WORKERCHECK_CACHE_KEY"
"""The environment variable with the key of those who share a cache. Not set, nothing is signed."""


class DamagedError(Exception):
    """What was sealed is not as it was written."""


class UnsignedError(Exception):
    """What was sealed was not signed with the key."""


def seal(name: str, body: bytes) -> bytes:
    """Return the content of a file.

    Parameters
    ----------
    name
        What the file is called, which is signed as well: no run passes for another one's.
    body
        What it is to hold.
    """
    return _checksum(body) + b" " + _signature(name, body) + b"\n" + body


def unseal(name: str, content: bytes) -> bytes:
    """Return what a file holds.

    Raises
    ------
    DamagedError
        If it is not as it was written.
    UnsignedError
        If the key is set, and the file was not signed with it.
    """
    header, _, body = content.partition(b"\n")
    checksum, _, signature = header.partition(b" ")
    if checksum != _checksum(body):
        raise DamagedError
    if os.environ.get(KEY) and not hmac.compare_digest(signature, _signature(name, body)):
        raise UnsignedError
    return body


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _signature(name: str, body: bytes) -> bytes:
    """Return the HMAC under the key, nothing without one."""
    key = os.environ.get(KEY)
    if not key:
        return b""
    message = name.encode() + b"\n" + body
    return hmac.new(key.encode("utf-8", "surrogateescape"), message, "sha256").hexdigest().encode()
