"""Name what a finding tells: executors, start methods, processes, objects.

A reader knows other names than the evidence has: the class of an executor instead of the module
whose code was loading a message, ``__main__.sphere`` instead of an error's text.
"""

from __future__ import annotations

import dataclasses as dc
import re
import signal
from collections.abc import Sequence

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.judge.finding import Finding

MACHINERY = (
    "_contextvars.",
    "asyncio.",
    "builtins.",
    "cloudpickle.",
    "collections.",
    "concurrent.",
    "copyreg.",
    "dask._",
    "dill.",
    "enum.",
    "functools.",
    "importlib.",
    "io.",
    "joblib.",
    "_pickle.",
    "pickle.",
    "torch.multiprocessing.",
    "types.",
    *libraries.MODULES,
)
"""Names that every message carries; what the reader sent has another one."""

ENGINES = tuple(
    (re.compile(pattern), name)
    for library in libraries.LIBRARIES
    for pattern, name in library.commands
)
"""The command lines of workers, and how those were started."""


_SERVICE = re.compile("|".join(lib.service for lib in libraries.LIBRARIES if lib.service))
"""The command line of what an executor starts beside its workers, a scheduler for one."""


def start_method(process: ev.ProcessStarted) -> str | None:
    """Return how a worker was started, None for a process that is no worker.

    A start method of `multiprocessing`, or what the table of libraries says.
    """
    words = " ".join(process.argv)
    if "resource_tracker" in words:
        return None
    if process.forked:
        return "forkserver" if ".forkserver import" in words else "fork"
    return next((name for pattern, name in ENGINES if pattern.search(words)), None)


def is_program(process: ev.ProcessStarted) -> bool:
    """Tell whether a process works for no other one: a kernel or a script, no library's service."""
    return (
        not process.forked
        and start_method(process) in (None, "mpi4py")
        and not _SERVICE.search(" ".join(process.argv[:4]))
    )


def library_of_command(command: str) -> libraries.Library | None:
    """Return the library that starts such a program by itself: a worker, a scheduler."""
    for library in libraries.LIBRARIES:
        patterns = (library.service, *(pattern for pattern, _ in library.commands))
        if any(pattern and re.search(pattern, command) for pattern in patterns):
            return library
    return None


def executor_from(stack: Sequence[Sequence[str]]) -> str | None:
    """Name the executor whose code was loading or making a message."""
    modules = [entry[0] for entry in stack if entry]
    for library in libraries.LIBRARIES:
        for module in modules:
            if module.startswith(library.modules) and not module.endswith(_GENERIC):
                return libraries.public(module)
    return None


_GENERIC = (".connection", ".queues", ".process", ".spawn", ".forkserver", ".context", ".reduction")
"""Modules that carry messages for every executor alike."""

_MISSING_NAME = (
    re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'"),
    re.compile(r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'"),
    re.compile(r"Can't (?:get|resolve)\D*'(?P<name>[^']+)' on <?module '(?P<module>[^']+)'"),
)
_CONSTRUCTOR = re.compile(r"(?P<name>[A-Za-z_][\w.]*)\.__(?:init|new)__\(\)")


def object_of(e: ev.LoadFailed) -> str | None:
    """Name what could not be loaded: ``__main__.sphere``, ``ghost_module.f``."""
    if e.found is not None:
        named = [name for name in e.globals if name == f"__main__.{e.name}"]
        return named[0] if named else f"__main__.{e.name}"
    for pattern in _MISSING_NAME:
        if match := pattern.search(e.message):
            found = f"{match['module']}.{match['name']}"
            # A worker of loky runs a module of loky as __main__, and Python 3.13 names that.
            sent = [n for n in e.globals if n.rsplit(".", 1)[-1] == match["name"]]
            return sent[0] if sent and found not in sent else found
    if e.name and e.exception in ("ModuleNotFoundError", "ImportError"):
        inside = [name for name in e.globals if name.startswith(e.name + ".")]
        return inside[0] if inside else e.name
    if e.importing == "__main__":
        return "__main__"
    if e.importing:
        inside = [name for name in e.globals if name.startswith(e.importing + ".")]
        return inside[0] if inside else reader_object(e.globals) or e.importing
    if match := _CONSTRUCTOR.match(e.message):
        named = [name for name in e.globals if name.endswith("." + match["name"])]
        if named or not e.globals:  # of a message whose bytes are not known
            return named[0] if named else match["name"]
        return f"__main__.{match['name']}"  # a class that came by value is the page's own
    if e.raised_in and not e.raised_in.startswith(MACHINERY):
        # The method of a class that the message names, or a function of the reader's.
        owners = [name for name in e.globals if e.raised_in.startswith(name + ".")]
        return owners[0] if owners else e.raised_in
    return reader_object(e.globals)


def is_missing_from_module(e: ev.LoadFailed) -> bool:
    """Tell whether a name could not be loaded because its module does not have it."""
    return any(pattern.search(e.message) for pattern in _MISSING_NAME)


def reader_object(names: Sequence[str]) -> str | None:
    """Choose, among the names in a message, the one the reader knows."""
    own = [name for name in names if not name.startswith(MACHINERY)]
    main = [name for name in own if name.startswith("__main__.")]
    return next(iter(main or own), None)


def unsent_object(e: ev.PickleFailed, handed_out: Sequence[str], *, is_result: bool) -> str | None:
    """Name what could not be pickled: the reader's object, and not what a library sends it in.

    Parameters
    ----------
    e
        The event.
    handed_out
        The names of the function that was handed out there, and of those that it holds.
    is_result
        Whether a worker was to send it back.
    """
    if e.object == "coroutine" and not is_result:  # of a function that was called too early
        return next(iter(handed_out), e.object)
    if is_result and e.object in _CONTAINERS:  # maybe that of an executor, for several results
        return reader_object(handed_out) or e.object
    if e.object is not None and not e.object.startswith(MACHINERY):
        return e.object
    named = _UNPICKLABLE.match(e.message)
    # A method is sent with its object.
    method = next((name for name in handed_out if named and name.startswith(f"{named[1]}.")), None)
    if method is not None:
        return method
    function = reader_object(handed_out) or next(iter(handed_out), None)
    return function or (named[1] if named else e.object)


_CONTAINERS = ("dict", "list", "set", "tuple")

_UNPICKLABLE = re.compile(r"cannot pickle '([\w.]+)' object")


def is_named_by(error: str, thing: str | None) -> bool:
    """Tell whether an error of pickle is about an object itself, and not what was sent with it."""
    name = (thing or "").rsplit(".", 1)[-1]
    return "<" in (thing or "<") or re.search(rf"\b{re.escape(name)}\b", error) is not None


def process(e: ev.LoadFailed, role: str, method: str | None) -> str:
    """Name the process, or the interpreter in it, in which a load failed."""
    if e.interpreter:
        return f"interpreter {e.interpreter} of process {e.pid}"
    return f"{role} {e.pid}" + (f" ({method})" if method else "")


def end_of(exitcode: int) -> str:
    """Say how a process ended, by its exit code as `multiprocessing` gives it."""
    if exitcode < 0:
        try:
            return f"killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"killed by signal {-exitcode}"
    return f"exit code {exitcode}"


def printable(finding: Finding) -> Finding:
    """Return the finding without anything that a terminal or a report would act on."""
    return dc.replace(
        finding,
        message=clean(finding.message, 1500),
        exception=clean(finding.exception) if finding.exception else None,
        process=clean(finding.process) if finding.process else None,
        object=clean(finding.object) if finding.object else None,
        hint=clean(finding.hint, 1000) if finding.hint else None,
    )


def clean(text: str, limit: int = 300) -> str:
    """Return text on one line, without control characters, cut to *limit* characters."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
