"""What this process is: a worker, a kernel or a program."""

from __future__ import annotations

import os
import sys

from workercheck.libraries import MODULES
from workercheck.recorder import events

_WORKER_SCRIPTS = ("dask", "dask-worker", "ipengine")
"""Scripts that libraries install to start workers."""
_RUN_AS_MODULE = (*MODULES, "dask.")
"""Modules of libraries, by the beginning of their names, that are run as a program."""
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
"""Options of the interpreter that the next word belongs to."""
_interpreter: int | None = None
"""The id of this interpreter, None where nobody has asked yet."""


def is_worker() -> bool:
    """Tell whether this process may work for another one: a library that carries work runs it."""
    return events.forked or is_workers_command(sys.orig_argv)


def interpreter() -> int:
    """Return the id of this interpreter, 0 for the main one of a process."""
    global _interpreter
    if _interpreter is None:
        try:
            import _interpreters  # type: ignore[import-not-found]

            _interpreter = int(_interpreters.get_current()[0])
        except Exception:  # before Python 3.13
            _interpreter = 0
    return _interpreter


def is_inner() -> bool:
    """Tell whether this interpreter is within a process of another one, for which it works."""
    return interpreter() != 0


def is_workers_command(argv: list[str]) -> bool:
    """Tell whether a command line runs code of a library that carries work."""
    rest = iter(argv[1:])
    for word in rest:
        if word == "-m":
            return f"{next(rest, '')}.".startswith(_RUN_AS_MODULE)
        if word == "-c":
            code = next(rest, "")
            return code.partition("from ")[2].startswith(MODULES) and "main" in code
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            installed = word.replace(os.sep, ".").rpartition("-packages.")[2]
            return os.path.basename(word) in _WORKER_SCRIPTS or installed.startswith(MODULES)
    return False


def is_program() -> bool:
    """Tell whether this process is a program: no worker, and no kernel, whose end is announced."""
    return not (is_worker() or runs_kernel())


def runs_kernel() -> bool:
    """Tell whether this process is a kernel; a forked copy has the kernel as it was then."""
    return not events.forked and "ipykernel.kernelapp" in sys.modules
