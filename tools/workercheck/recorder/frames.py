"""Whose the functions on the stack are: the reader's, a library's that carries work, another's.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import os
import sys

from workercheck.libraries import (
    BOOTSTRAPS,
    DISPATCHERS,
    DOES_WITHOUT,
    FALLS_BACK,
    MODULES,
    PICKLERS,
    RESULT_READERS,
    RUNS,
)
from workercheck.recorder import directives, events, sources

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import CodeType, FrameType

_id = events.identity

READER, CARRIER, OTHER, END, OWN = range(5)
"""Whose a function is: the reader's, a library's that carries work, another's; the bottom of a
worker's stack; nobody's, a wrapper through which the others are seen."""

STDLIB = os.path.dirname(os.__file__) + os.sep
"""The beginning of the path of each module of the standard library."""
_SCRIPTS = os.path.dirname(sys.executable) if sys.executable else ""
"""The folder in which what is installed puts its commands."""
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_is_bootstrapped = any(word in BOOTSTRAPS for word in sys.orig_argv)
"""Whether the text of ``python -c`` in this process is a host's, and not the reader's."""

_kinds: dict[int, tuple[CodeType, int]] = {}
"""By the id of a code: the code, which keeps the id its own, and whose it is."""
_loop: FrameType | None = None
"""Of the function that the process of a worker runs: takes one task after the other."""


def kind(frame: FrameType) -> int:
    """Tell whose the function of a frame is."""
    code = frame.f_code
    known = _kinds.get(_id(code))
    if known is None:
        known = _kinds[_id(code)] = (code, _kind(frame))
    return known[1]


def _kind(frame: FrameType) -> int:
    module = module_of(frame)
    file = frame.f_code.co_filename
    if module.startswith("workercheck.recorder.") or module == "decorator":
        return OWN
    if module.endswith(".cloudpickle_wrapper"):  # makes a part of a message
        return OTHER
    if module.startswith(MODULES):
        is_bottom = frame.f_code.co_name == "_bootstrap" and module.endswith(".process")
        return END if is_bottom else CARRIER
    if file.startswith(("<frozen", STDLIB)) or is_installed_file(file):
        return OTHER
    if module == "__main__" and os.path.dirname(file) == _SCRIPTS:
        return OTHER
    if file.startswith(sources.DOCTEST):
        return READER
    if file.startswith("<"):
        # Made by `exec`, a wrapper for one: whoever made it does what it does.
        if module == "__main__" and not _is_bootstrapped:
            return READER
        return READER if directives.runs(frame) or _is_of_text(frame) else OWN
    return READER


def _is_of_text(frame: FrameType) -> bool:
    """Tell whether a frame is of a text that an installed tool runs, such as a block of a page.

    A function that `exec` has made for a library, such as that of a dataclass, is called later.
    """
    text: FrameType | None = frame
    while text is not None and not (
        text.f_globals is frame.f_globals
        and text.f_code.co_name == "<module>"
        and text.f_code.co_filename.startswith("<")
    ):
        text = text.f_back
    tool = text.f_back if text is not None else None
    return tool is not None and kind(tool) == OTHER


def module_of(frame: FrameType) -> str:
    """Return the name of a frame's module, also where it runs as ``__main__`` (``python -m``)."""
    name = frame.f_globals.get("__name__")
    if name == "__main__":
        name = getattr(frame.f_globals.get("__spec__"), "name", None) or name
    return name if type(name) is str else ""


def is_reader(frame: FrameType) -> bool:
    """Tell whether a frame is of the reader's own code."""
    return kind(frame) == READER


def carries_messages(frame: FrameType) -> bool:
    """Tell whether what a function loads or pickles is a message between processes."""
    return kind(frame) in (CARRIER, END) and not _calls_task(frame)


def calls_no_tasks(frame: FrameType) -> bool:
    """Tell whether no function in the module of a frame calls the tasks of workers."""
    module = module_of(frame) + "."
    return not any(path.startswith(module) for path in RUNS)


def runs_task(frame: FrameType) -> bool:
    """Tell whether a function calls the tasks of a worker, one after the other."""
    return _calls_task(frame) and not path_of(frame).endswith(".BaseProcess.run")


def is_installed(frame: FrameType) -> bool:
    """Tell whether a function is of an installed library that carries no work."""
    return kind(frame) == OTHER and is_installed_file(frame.f_code.co_filename)


def is_installed_file(path: str) -> bool:
    """Tell whether a file is of what was installed into the environment."""
    return any(part in path for part in _INSTALLED)


def _calls_task(frame: FrameType) -> bool:
    return path_of(frame).partition(".<locals>")[0] in RUNS  # a comprehension is within


def path_of(frame: FrameType) -> str:
    """Return the full name of a frame's function."""
    return f"{module_of(frame)}.{frame.f_code.co_qualname}"


def name_of(frame: FrameType) -> str:
    """Return the name of a frame's function as events have it, in ``__main__`` under that name."""
    module, name = frame.f_globals.get("__name__"), frame.f_code.co_qualname
    return events.text(f"{module}.{name}" if type(module) is str else name)[:300]


def falls_back(frame: FrameType | None) -> bool:
    """Tell whether a library only tries `pickle.dumps` here, and something else afterwards."""
    return frame is not None and str(frame.f_globals.get("__name__")).startswith(FALLS_BACK)


def is_no_message(frame: FrameType | None) -> bool:
    """Tell whether the reader's own code has a library pickle or load something, and send nothing.

    That is how a page finds out whether something can be sent.
    """
    return reader_of(frame) is not None and executor_behind(frame).startswith(PICKLERS)


def does_without(frame: FrameType | None) -> bool:
    """Tell whether a library goes on without what it could not load here."""
    caller = frame.f_back if frame is not None else None
    return caller is not None and path_of(caller) in DOES_WITHOUT


def is_machinery(frame: FrameType | None) -> bool:
    """Tell whether nobody but libraries is on the stack: the loop of a worker, not its task.

    A library that loads the answer to a question of its own, as the proxy of a manager does when
    it is deleted, is not the loop.
    """
    caller = frame.f_back if frame is not None else None
    if caller is not None and caller is _loop:
        return True
    while frame is not None:
        what = kind(frame)
        if what == END:
            if caller is not None and caller.f_back is not None:
                _remember_loop(caller, caller.f_back)
            return True
        if what == READER or frame.f_code.co_name in RESULT_READERS:
            return False
        frame = frame.f_back
    return True


def _remember_loop(frame: FrameType, caller: FrameType) -> None:
    """Remember what a worker's process runs: nothing of the reader's is below it."""
    global _loop
    if caller.f_code.co_name == "run" and kind(caller) == CARRIER:
        _loop = frame


def answers_in_loop(frame: FrameType | None) -> bool:
    """Tell, without a look at the rest of the stack, whether the loop of a worker sends this."""
    if _loop is None or frame is None:
        return False
    above = frame.f_back
    return above is _loop or (above is not None and above.f_back is _loop)


def reader_of(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the reader's own code."""
    while frame is not None:
        what = kind(frame)
        if what == READER:
            return frame
        if what == END:
            return None
        frame = frame.f_back
    return None


def outside_asyncio(frame: FrameType | None) -> FrameType | None:
    """Return a frame, or the first one that called it from outside `asyncio`."""
    while frame is not None and (module_of(frame).startswith("asyncio.") or kind(frame) == OWN):
        frame = frame.f_back
    return frame


def caller_of_library(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame that is of no library that carries work."""
    while frame is not None and kind(frame) in (CARRIER, OWN):
        frame = frame.f_back
    return frame


def called_by_reader(frame: FrameType | None) -> FrameType | None:
    """Return the function that the reader's code called, None where it called none."""
    while frame is not None:
        caller = frame.f_back
        if caller is not None and kind(caller) == READER:
            return frame
        frame = None if kind(frame) == END else caller
    return None


def is_called_for_another(frame: FrameType | None) -> bool:
    """Tell whether a function of a library is itself the task of another process."""
    while frame is not None and kind(frame) == CARRIER:
        if _calls_task(frame):
            return True
        frame = frame.f_back
    return False


def is_reader_behind(frame: FrameType | None) -> bool:
    """Tell whether the reader's own code, and no library that carries work, is behind a frame."""
    while frame is not None:
        what = kind(frame)
        if what not in (OTHER, OWN):
            return what == READER
        frame = frame.f_back
    return False


def executor_behind(frame: FrameType | None) -> str:
    """Return the module of the outermost function of a library that the reader's code called."""
    found = ""
    while frame is not None and kind(frame) != READER:
        if kind(frame) == CARRIER:
            name = str(frame.f_globals.get("__name__"))
            # A context only makes what does the work.
            found = found if name.endswith(".context") and found else name
        frame = frame.f_back
    return found


def library_behind(frame: FrameType | None) -> str:
    """Return the package that called the executor for the reader, empty where the reader did.

    What a dispatcher calls, such as an event loop, is the choice of who gave it that: the package
    that runs the loop has called nothing.
    """
    while frame is not None and kind(frame) in (CARRIER, OTHER, OWN):
        if kind(frame) == OTHER:
            if is_installed(frame):
                return str(frame.f_globals.get("__name__")).partition(".")[0]
            if path_of(frame) in DISPATCHERS:
                return ""
        frame = frame.f_back
    return ""


def forget() -> None:
    """Begin anew in a forked child, which may run another loop."""
    global _loop
    _loop = None
