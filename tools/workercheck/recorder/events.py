"""Write an event of a page's process as one line of its evidence.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter of a watched page. Nothing here may raise.
"""

import os
import sys
import time

try:
    from _json import encode_basestring_ascii as _quote
except ImportError:
    from json.encoder import py_encode_basestring_ascii as _quote

# Importing typing would cost each interpreter a millisecond, __future__ a tenth of one: hence
# the quotes around the annotations.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

ENV = "WORKERCHECK_EVIDENCE"
"""The environment variable that names the folder for the evidence, and switches this on."""

EVENTS = "events.jsonl"
INTACT = "intact"
"""A file that is removed when an event could not be written: unlinking works on a full disk."""

TRANSPORTS = (
    "multiprocessing.",
    "multiprocess.",
    "concurrent.futures.",
    "concurrent.interpreters",
    "loky.",
    "joblib.externals.loky.",
    "distributed.",
    "ipyparallel.",
    "mpi4py.",
)
"""Modules that carry work between processes: what they load is a message."""

_MESSAGE_LIMIT = 4_000

folder = ""
"""Where this process writes, empty while it is not watched."""

forked = False
"""Whether this process began as a copy of another."""


def write(event: str, **fields: "Any") -> None:
    """Append one event: one line, one write, so that lines of several processes never mix."""
    try:
        fields = {"event": event, "pid": os.getpid(), "time": time.time(), **fields}
        line = _dumps(fields).encode("ascii") + b"\n"
        # Opened for each event: a descriptor kept open can be closed by the page, and its
        # number given to a file of the page's own.
        fd = os.open(folder + "/" + EVENTS, os.O_WRONLY | os.O_APPEND)
        try:
            written = os.write(fd, line)
        finally:
            os.close(fd)
        if written != len(line):
            raise OSError("short write")
    except Exception:
        try:
            os.unlink(folder + "/" + INTACT)
        except OSError:
            pass


def _dumps(value: "Any") -> str:
    """Return JSON; importing `json` would take longer than all the rest at a process's start."""
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, dict):
        return "{" + ",".join(_quote(k) + ":" + _dumps(v) for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_dumps, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def text(value: str) -> str:
    """Return the string without lone surrogates, which no file takes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def cell() -> "str | None":
    """Return the message id of the cell on whose behalf this code runs, None outside a kernel.

    ipykernel keeps it in a context variable: a task of `asyncio` still knows the cell that
    created it when it runs during a later one.
    """
    if forked:  # it has a copy of the kernel, as it was then
        return None
    try:
        app = sys.modules["ipykernel.kernelapp"].IPKernelApp
        return str(app.instance().kernel.get_parent("shell")["header"]["msg_id"])
    except Exception:
        return None


def is_page(frame: "FrameType | None") -> bool:
    """Tell whether the code of the page, or a module of its own, is behind this frame.

    The frames of executors are passed over: ``Executor.map`` calls ``submit`` for its caller.
    """
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(TRANSPORTS):
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") == "__main__":
        return frame is not None
    file = frame.f_code.co_filename
    return "site-packages" not in file and not file.startswith((os.path.dirname(os.__file__), "<"))


def message_of(exc: "BaseException") -> str:
    """Return what an exception says, cut; some cannot even be shown."""
    try:
        return text(str(exc))[:_MESSAGE_LIMIT]
    except Exception:
        return "<its message cannot be shown>"


def qualified(thing: object) -> "str | None":
    """Return ``module.qualname`` of a function or a class, None for what has no name."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    if type(module) is not str or type(name) is not str:
        return None
    return text(name if module == "builtins" else module + "." + name)[:300]


def write_bare_failure(exc: "BaseException") -> None:
    """Write that a load failed where nothing more can be said about it."""
    write(
        "load-failed",
        stack=[],
        interpreter=0,
        exception=type(exc).__name__,
        message="",
        name=None,
        globals=[],
        raised_in=None,
        traceback="",
        cell=None,
    )
