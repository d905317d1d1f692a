"""Write an event of a watched process as one line of the run's evidence.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter of a run. Nothing here may raise.
"""

import os
import sys
import time
from _functools import partial as _partial  # type: ignore[import-not-found]

try:
    from _json import encode_basestring_ascii as _quote
except ImportError:
    from json.encoder import py_encode_basestring_ascii as _quote

# Importing typing would cost each interpreter a millisecond, __future__ a tenth of one: hence
# the quotes around the annotations.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ENV = "WORKERCHECK_EVIDENCE"
"""The environment variable that names the folder for the evidence, and switches this on."""

QUESTION = "WORKERCHECK_QUESTION"
"""The environment variable that names, for a kernel alone, where it is asked for its last words."""

EVENTS = "events.jsonl"
INTACT = "intact"
"""A file that is removed when an event could not be written: unlinking works on a full disk.

It holds the path of the folder whose files the run depends on."""

WORDS = 32
"""How many words of its own command a process tells at most."""

_MESSAGE_LIMIT = 4_000

identity: "Callable[[object], int]" = object.__hash__
"""Used instead of `id`, of which every audit hook is told: also the one that watches files."""

folder = ""
"""Where this process writes, empty while it is not watched."""

forked = False
"""Whether this process began as a copy of another."""


IS_BOOT_CLOCK = hasattr(time, "CLOCK_BOOTTIME") and os.path.exists("/proc/self/stat")
"""Whether events tell the time since the machine's start, as the system does of its processes.

The clock on the wall may be set back while a page runs, by an hour or by a test.
"""


class Kept:
    """Functions of the system as they are, from before a test suite or a page can replace them.

    pyfakefs and freezegun look for them among the globals of each module, under whatever name;
    within a class nobody looks.
    """

    open, write, close, unlink, getpid = os.open, os.write, os.close, os.unlink, os.getpid
    stat = os.stat
    monotonic = time.monotonic
    clock: "Callable[[], float]"
    clock_ns: "Callable[[], int]"
    if IS_BOOT_CLOCK:
        clock = _partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        clock_ns = _partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    else:
        clock, clock_ns = time.time, time.time_ns


def exists(path: str) -> bool:
    """Tell whether there is a file or a folder; `os.path` asks a function that may be replaced."""
    return _mode(path) is not None


def is_file(path: str) -> bool:
    """Tell whether there is a regular file."""
    mode = _mode(path)
    return mode is not None and mode & 0o170000 == 0o100000  # stat.S_ISREG, without its module


def _mode(path: str) -> "int | None":
    try:
        return Kept.stat(path).st_mode
    except (OSError, ValueError):
        return None


# Without waiting for the other end of a pipe that somebody has put in the place of the file.
_FLAGS = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
_failed: "set[str]" = set()


def write(event: str, **fields: "Any") -> None:
    """Append one event: one line, one write, so that lines of several processes never mix."""
    try:
        fields = {"event": event, "pid": Kept.getpid(), "time": Kept.clock(), **fields}
        line = _dumps(fields).encode("ascii") + b"\n"
        # Opened for each event: a descriptor kept open can be closed by the page, and its
        # number given to a file of the page's own.
        fd = Kept.open(folder + "/" + EVENTS, _FLAGS)
        try:
            written = Kept.write(fd, line)
        finally:
            Kept.close(fd)
        if written != len(line):
            raise OSError("short write")
    except Exception:
        try:
            Kept.unlink(folder + "/" + INTACT)
        except OSError:
            pass


def failed(what: str, exc: BaseException) -> None:
    """Write that something could not be watched, once for each thing.

    An interpreter that has run all code and takes its modules down can import nothing any more;
    what the destructor of an object then tries is no work.
    """
    if what not in _failed and not sys.is_finalizing():
        _failed.add(what)
        write(
            "recorder-failed", what=what, reason=type(exc).__name__ + ": " + message_of(exc)[:300]
        )


def guarded(function: "Callable[..., Any]", name: str) -> "Callable[..., Any]":
    """Return the function, but with `failed` instead of an error."""

    def call(*args: "Any") -> "Any":
        try:
            return function(*args)
        except Exception as exc:
            failed(name, exc)
            return None

    return call


def _dumps(value: "Any") -> str:
    """Return JSON; importing `json` would take longer than all the rest at a process's start."""
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, dict):
        return "{" + ",".join([_quote(k) + ":" + _dumps(v) for k, v in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_dumps, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value!r}"  # a page may have replaced `repr`


def text(value: str) -> str:
    """Return the string without lone surrogates, which no file takes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def path_of(value: object) -> str:
    """Return the path that a value is, empty for what is none."""
    if type(value) is str:
        return text(value)
    paths: Any = sys.modules.get("pathlib")
    return text(str(value)) if paths and isinstance(value, paths.PurePath) else ""


def message_of(exc: "BaseException") -> str:
    """Return what an exception says, cut; some cannot even be shown."""
    try:
        return text(str(exc))[:_MESSAGE_LIMIT]
    except Exception:
        return "<its message cannot be shown>"


_METHODS = ("builtin_function_or_method", "method_descriptor", "method-wrapper")
"""Types of the methods of classes written in C, which tell no module of their own."""


_Method = type((lambda _: None).__get__(0))


def attribute(thing: "Any", name: str) -> "Any":
    """Return an attribute of an object that may be the page's, None where it has none.

    A ``__getattr__`` of the page's own is not asked: it may raise any error, count who asks, or
    ask another machine. What only that knows is not there.
    """
    while type(thing) is _Method:  # has the attributes of its function
        thing = thing.__func__
    try:
        return object.__getattribute__(thing, name)
    except Exception:  # of a property, too
        return None


def is_a(thing: object, cls: type) -> bool:
    """Tell whether an object is of a class, by its type: `isinstance` asks the object as well."""
    return issubclass(type(thing), cls)


def qualified(thing: object) -> "str | None":
    """Return ``module.qualname`` of a function or a class, None for what has no name."""
    module = attribute(thing, "__module__")
    name = attribute(thing, "__qualname__") or attribute(thing, "__name__")
    if type(name) is not str:
        return None
    if type(module) is not str and type(thing).__name__ in _METHODS:
        owner = attribute(thing, "__objclass__") or type(attribute(thing, "__self__"))
        module = owner.__module__
    if type(module) is not str:
        # A class may say that it has no module, and a function that is made of a text has none.
        has_name = is_a(thing, type) or type(thing).__name__ == "function"
        return text(name)[:300] if has_name else None
    return text(name if module == "builtins" else module + "." + name)[:300]
