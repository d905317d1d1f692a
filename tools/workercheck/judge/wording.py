"""Name and word what a finding tells: executors, start methods, objects, hints.

A reader knows other names than the evidence has: the class of an executor instead of the module
whose code was loading a message, ``__main__.sphere`` instead of an error's text.
"""

from __future__ import annotations

import dataclasses as dc
import re
import signal
from collections.abc import Sequence

from workercheck.evidence import records as ev
from workercheck.judge.finding import Finding

MACHINERY = (
    "builtins.",
    "cloudpickle.",
    "collections.",
    "concurrent.",
    "copyreg.",
    "functools.",
    "joblib.",
    "loky.",
    "multiprocessing.",
    "types.",
    "_pickle.",
)
"""Names that every message carries; what the reader sent has another one."""

LOOK = {
    "future": "Ask for its result() or its exception().",
    "result": "Ask for it with get().",
    "task": "Await it; for a runner of adaptive, await runner.task.",
    "process": "Read its exitcode after join(), or mend what it runs.",
}


ENGINES = (
    (re.compile(r"\bdask[ -]worker\b|\bdistributed\.cli\.dask_worker\b"), "dask"),
    (re.compile(r"\bipyparallel\.engine(?!\.)"), "ipyparallel"),
    (re.compile(r"-m mpi4py\.futures\b"), "mpi4py"),
)
"""The programs that a page starts to work for it, by their command line."""


def start_method(hello: ev.Hello) -> str | None:
    """Return how a worker was started, None for a process that is no worker.

    A start method of `multiprocessing`, ``loky``, or the name in `ENGINES`.
    """
    words = " ".join(hello.argv)
    if "resource_tracker" in words:
        return None
    for pattern, engine in ENGINES:
        if not hello.forked and pattern.search(words):
            return engine
    if hello.forked:
        return "forkserver" if "multiprocessing.forkserver" in words else "fork"
    if "multiprocessing.spawn" in words or "--multiprocessing-fork" in words:
        return "spawn"
    if "popen_loky_posix" in words:
        return "loky"
    return None


def process(e: ev.LoadFailed, *, is_kernel: bool, method: str | None) -> str:
    """Name the process, or the interpreter in it, in which a load failed."""
    if e.interpreter:
        return f"interpreter {e.interpreter} of process {e.pid}"
    return f"{'kernel' if is_kernel else 'worker'} {e.pid}" + (f" ({method})" if method else "")


def executor_from(stack: Sequence[Sequence[str]]) -> str | None:
    """Name the executor whose code was loading the message."""
    modules = [module for module, _ in stack]
    for prefix, name in (
        ("joblib.externals.loky", "joblib"),
        ("loky", "loky"),
        ("concurrent.futures.process", "concurrent.futures.ProcessPoolExecutor"),
        ("concurrent.futures.interpreter", "concurrent.futures.InterpreterPoolExecutor"),
        ("concurrent.interpreters", "concurrent.interpreters"),
        ("multiprocessing.pool", "multiprocessing.Pool"),
        ("multiprocessing.managers", "multiprocessing.Manager"),
        ("distributed", "dask.distributed"),
        ("ipyparallel", "ipyparallel"),
        ("mpi4py", "mpi4py.futures"),
        ("multiprocessing.spawn", "multiprocessing.Process"),
        ("multiprocessing.forkserver", "multiprocessing.Process"),
    ):
        if any(module == prefix or module.startswith(prefix + ".") for module in modules):
            return name
    if any(function == "main" and module == "__main__" for module, function in stack):
        return "loky"
    return None


def public(executor: str) -> str:
    """Return the name under which a reader knows an executor."""
    return {
        "process": "concurrent.futures.ProcessPoolExecutor",
        "thread": "concurrent.futures.ThreadPoolExecutor",
        "interpreter": "concurrent.futures.InterpreterPoolExecutor",
        "pool": "multiprocessing.Pool",
        "mp-process": "multiprocessing.Process",
        "dask": "dask.distributed",
    }.get(family(executor), family(executor))


def family(executor: str) -> str:
    """Return what the names of one executor, its class and its modules, have in common."""
    for part, name in (
        ("joblib", "joblib"),
        ("loky", "loky"),
        ("concurrent.futures.process", "process"),
        ("ProcessPoolExecutor", "process"),
        ("ThreadPoolExecutor", "thread"),
        ("InterpreterPoolExecutor", "interpreter"),
        ("concurrent.futures.interpreter", "interpreter"),
        ("multiprocessing.pool", "pool"),
        ("multiprocessing.Pool", "pool"),
        ("multiprocessing.Process", "mp-process"),
        ("distributed", "dask"),
        ("ipyparallel", "ipyparallel"),
        ("mpi4py", "mpi4py.futures"),
    ):
        if part in executor:
            return name
    return executor


_MISSING_NAME = (
    re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'"),
    re.compile(r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'"),
    re.compile(r"Can't (?:get|resolve)\D*'(?P<name>[^']+)' on <?module '(?P<module>[^']+)'"),
)
_CONSTRUCTOR = re.compile(r"(?P<name>[A-Za-z_][\w.]*)\.__(?:init|new)__\(\)")


def object_of(e: ev.LoadFailed) -> str | None:
    """Name what could not be loaded: ``__main__.sphere``, ``ghost_module.f``."""
    for pattern in _MISSING_NAME:
        if match := pattern.search(e.message):
            found = f"{match['module']}.{match['name']}"
            # A worker of loky runs a module of loky as __main__, and Python 3.13 names that.
            sent = [n for n in e.globals if n.rsplit(".", 1)[-1] == match["name"]]
            return sent[0] if sent and found not in sent else found
    if e.name and e.exception in ("ModuleNotFoundError", "ImportError"):
        inside = [name for name in e.globals if name.startswith(e.name + ".")]
        return inside[0] if inside else e.name
    if e.raised_in and not e.raised_in.startswith(MACHINERY):
        # The method of a class that the message names, or a function of the reader's.
        owners = [name for name in e.globals if e.raised_in.startswith(name + ".")]
        return owners[0] if owners else e.raised_in
    if match := _CONSTRUCTOR.match(e.message):
        named = [name for name in e.globals if name.endswith("." + match["name"])]
        # A class that came by value is the page's own.
        return named[0] if named else f"__main__.{match['name']}"
    return reader_object(e.globals) or e.raised_in


def reader_object(names: Sequence[str]) -> str | None:
    """Choose, among the names in a message, the one the reader knows."""
    own = [name for name in names if not name.startswith(MACHINERY)]
    main = [name for name in own if name.startswith("__main__.")]
    return next(iter(main or own), None)


def hint(e: ev.LoadFailed, thing: str | None, result: bool, executor: str | None) -> str:
    """Say what to do about a failed load, by its cause."""
    name = (thing or "it").rsplit(".", 1)[-1]
    if result:
        return (
            f"Return plain data, or mend how {name} is pickled: an exception with an __init__ of "
            "its own needs a __reduce__, a class has to be importable in both processes."
        )
    if e.exception == "ModuleNotFoundError":
        return (
            f"Install {e.name} where the workers run, or put it on their path: workers get "
            "sys.path as it was when they started."
        )
    if thing is not None and thing.startswith("__main__.") and e.exception == "AttributeError":
        if executor is not None and family(executor) == "process":
            return (
                "Leave out executor= (adaptive's default since 1.5.1 is loky, which pickles it by "
                f"value), use loky.get_reusable_executor() elsewhere, or move {name} into a module."
            )
        return (
            f"Move {name} into a module that both processes can import, or hand the work to loky, "
            "which pickles it by value."
        )
    if e.exception == "AttributeError":
        return "Make the module that the worker imports the one that the page has."
    return f"Loading {name} raises: mend its __setstate__ or __reduce__, or send plain data."


def end_of(exitcode: int) -> str:
    """Say how a process ended, by its exit code as `multiprocessing` gives it."""
    if exitcode < 0:
        try:
            return f"killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"killed by signal {-exitcode}"
    return f"exit code {exitcode}"


def presentable(finding: Finding) -> Finding:
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
