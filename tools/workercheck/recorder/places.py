"""Where in the reader's own code work was handed out, and on whose behalf.

A place is a line of the reader's code, a cell and an executor. It is written once, and numbered:
what happens to a piece of work later names its place by the number. Everything that is computed
here is kept by code object and instruction, so that the ten thousandth task costs no more than a
look into a dictionary.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import os
import sys
import weakref
from _thread import get_ident as _get_ident
from os import environ as _environ

from workercheck.libraries import (
    BATCHES,
    BOOTSTRAPS,
    DISPATCHERS,
    FALLS_BACK,
    MODULES,
    RESULT_READERS,
    RUNS,
)
from workercheck.recorder import directives, events, sources

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Resolver = Callable[[FrameType, Any], int]
    """Finds the place of an object that a function of a library is about to send."""

_id = events.identity

READER, CARRIER, OTHER, END, OWN = range(5)
"""Whose a function is: the reader's, a library's that carries work, another's; the bottom of a
worker's stack; nobody's, a wrapper through which the others are seen."""

_LIMIT = 20_000
_NAMES = 12
"""Of a function and those that it holds, as many as are told."""
_Code, _Builtin, _Module = type((lambda: 0).__code__), type(len), type(sys)

_WORKER_SCRIPTS = ("dask", "dask-worker", "ipengine")
"""Scripts that libraries install to start workers."""
_RUN_AS_MODULE = (*MODULES, "dask.")
"""Modules of libraries, by the beginning of their names, that are run as a program."""
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
"""Options of the interpreter that the next word belongs to."""
_CURRENT_TEST = "PYTEST_CURRENT_TEST"
_inherited_test = _environ.get(_CURRENT_TEST, "").rpartition(" (")[0]
"""The test that started this process, empty where none did."""

_running_test = ""
"""The test that runs in this process, where pytest's plugin tells; empty elsewhere."""

_is_bootstrapped = any(word in BOOTSTRAPS for word in sys.orig_argv)
"""Whether the text of ``python -c`` in this process is a host's, and not the reader's."""

_STDLIB = os.path.dirname(os.__file__) + os.sep
_SCRIPTS = os.path.dirname(sys.executable) if sys.executable else ""
"""The folder in which what is installed puts its commands."""
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_kinds: dict[int, tuple[CodeType, int]] = {}
_places: dict[tuple[Any, ...], int] = {}
_within: dict[tuple[int, int], int] = {}
"""By a place and a message on whose behalf work was handed out there: the number of both."""
_kept: list[Any] = []
"""What has its id in the keys of places, so that nothing else gets the same id."""
_sent_from: dict[tuple[Any, ...], int] = {}
"""By reader's code, instruction, function of a library and cell: the place of what is sent."""
_signs: dict[int, tuple[weakref.ref[Any], tuple[Any, Any]]] = {}
"""By the id of a function: itself, while it lives, and what it is known by."""
_executors: dict[type, str] = {}
_loop: FrameType | None = None
"""Of the function that the process of a worker runs: takes one task after the other."""
_count = 0
resolvers: dict[int, Resolver] = {}
_cell_of_thread: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_starts_of_threads: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()
"""File and line at which the reader's own code started a thread."""
_cells: dict[int, str | None] = {}
"""By the number of a place: its cell."""
_positions: dict[int, tuple[str, int]] = {}
"""By the number of a place where the reader handed work out itself: its file and line."""
_kernel: Any = None
_main_thread = _get_ident()

place_of_future: Callable[[Any], int] = lambda future: 0  # noqa: E731 - set by `work`
"""Returns the place of a future, 0 where it is not known."""
is_held_future: Callable[[Any], bool] = lambda future: False  # noqa: E731 - set by `work`
"""Tells whether the reader's own code gets the result of a future."""


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
    if file.startswith(("<frozen", _STDLIB)) or any(part in file for part in _INSTALLED):
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


def _calls_task(frame: FrameType) -> bool:
    path = frame.f_code.co_qualname.partition(".<locals>")[0]  # a comprehension is within
    return f"{module_of(frame)}.{path}" in RUNS


def falls_back(frame: FrameType | None) -> bool:
    """Tell whether a library only tries `pickle.dumps` here, and something else afterwards."""
    return frame is not None and str(frame.f_globals.get("__name__")).startswith(FALLS_BACK)


def is_machinery(frame: FrameType | None) -> bool:
    """Tell whether nobody but libraries is on the stack: the loop of a worker, not its task.

    A library that loads the answer to a question of its own, as the proxy of a manager does when
    it is deleted, is not the loop.
    """
    caller = frame.f_back if frame is not None else None
    if caller is not None and caller is _loop:
        return True
    while frame is not None:
        known = _kinds.get(_id(frame.f_code))
        what = known[1] if known is not None else kind(frame)
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


def reader_of(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the reader's own code."""
    while frame is not None:
        known = _kinds.get(_id(frame.f_code))
        what = known[1] if known is not None else kind(frame)
        if what == READER:
            return frame
        if what == END:
            return None
        frame = frame.f_back
    return None


def is_held_by_reader(frame: FrameType | None) -> bool:
    """Tell whether what a function returns to *frame* reaches the reader's own code.

    The frames of executors are passed over: ``Executor.map`` calls ``submit`` for its caller. So is
    a timer to which the reader gave ``submit`` itself: that the timer drops the future was the
    reader's choice. A pool of threads that was given ``submit`` has the future as its result.
    """
    task = _task_behind(frame)
    if task is not None:
        return place_of_future(task) in _positions and is_held_future(task)
    caller = _caller_of_library(frame)
    if caller is None or kind(caller) == READER:
        return caller is not None
    return _is_dispatcher(caller) and _is_given(caller)


def _caller_of_library(frame: FrameType | None) -> FrameType | None:
    while frame is not None and kind(frame) in (CARRIER, OWN):
        frame = frame.f_back
    return frame


def _task_behind(frame: FrameType | None) -> Any:
    """Return the future of a task of a thread pool that does nothing but call a library."""
    while frame is not None and kind(frame) in (CARRIER, OWN):
        future = _future_of_task(frame)
        if future is not None:
            return future
        frame = frame.f_back
    return None


def _future_of_task(frame: FrameType) -> Any:
    """Return the future of the task of a thread pool that this frame runs, None for another."""
    if frame.f_code.co_name == "run" and frame.f_code.co_filename.endswith("thread.py"):
        # Since Python 3.14, what runs the task is called by what has the future.
        return getattr(frame.f_locals.get("self"), "future", None)
    return None


def _is_dispatcher(frame: FrameType) -> bool:
    return f"{module_of(frame)}.{frame.f_code.co_qualname}" in DISPATCHERS


def _is_given(dispatcher: FrameType) -> bool:
    """Tell whether the reader gave a dispatcher what it calls."""
    if _runs_kernel() and module_of(dispatcher).startswith("asyncio."):
        return _cell_of_context(None) is not None  # of which the kernel's own loop knows nothing
    caller = dispatcher.f_back
    while caller is not None and caller.f_code.co_filename.startswith(_STDLIB):
        caller = caller.f_back
    if caller is None:
        return _start_of_thread(dispatcher) is not None
    return kind(caller) == READER


def _start_of_thread(frame: FrameType | None) -> tuple[str, int] | None:
    """Return where the reader started this thread, if all it does is to call a library."""
    caller = _caller_of_library(frame)
    if caller is None or not _is_dispatcher(caller):
        return None
    threading: Any = sys.modules.get("threading")
    return threading and _starts_of_threads.get(threading.current_thread())


def _given_at(frame: FrameType | None) -> tuple[str, int] | None:
    """Return where the reader gave a thread, or a pool of threads, what it calls."""
    task = _task_behind(frame)
    return _positions.get(place_of_future(task)) if task is not None else _start_of_thread(frame)


def outside_asyncio(frame: FrameType | None) -> FrameType | None:
    """Return a frame, or the first one that called it from outside `asyncio`."""
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("asyncio."):
        frame = frame.f_back
    return frame


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


def place(frame: FrameType | None, executor: str, function: Any = None, args: Any = ()) -> int:
    """Return the number of a place, and write it when it is new.

    Parameters
    ----------
    frame
        From where the reader's own code is looked for, outwards.
    executor
        ``module.class`` of what the work is handed to.
    function, args
        The work, None where an object is sent.

    Returns
    -------
    int
        From 1 on.
    """
    global _count
    reader = reader_of(frame)
    here = on_behalf(frame)
    what, kept = sign_of(function, args)
    directive = None
    key: Any
    if reader is not None:
        key = (_id(reader.f_code), reader.f_lasti, here, executor, what)
    else:
        directive = directives.position(frame) or _given_at(frame)
        key = (directive, here, executor, what)
    number = _places.get(key)
    if number is None:
        if _count >= _LIMIT:  # a page that makes a new function for each task
            key = (here, executor)
            if (number := _places.get(key)) is not None:
                return number
        _count += 1
        number = _places[key] = _count
        _cells[number] = here
        _kept.append((reader and reader.f_code, kept))
        if reader is not None:
            file, line, text = sources.position(reader)
            whole = "" if text else sources.whole_text(file, reader)
        else:
            file, line, text, whole = *(directive or ("", 0)), "", ""
        if reader is not None and reader is outside_asyncio(frame):
            _positions[number] = file, line
        events.write(
            "place",
            id=number,
            file=events.text(file)[:500],
            line=line,
            text=events.text(text)[:500],
            whole=events.text(whole),
            cell=here if _runs_kernel() else None,
            number=_number_of(reader),
            test=events.text(test())[:500] or None,
            executor=executor,
            through=_library_behind(frame),
            names=names_of(function, args)[:_NAMES] if function is not None else [],
        )
    return number


def within(number: int, message: int) -> int:
    """Return the number of a place in a worker, and of the message on whose behalf it handed out.

    A worker works for one cell after the other, in the same lines of code. Which of them it was
    matters only where something fails, so that only then a number is made of both.

    Parameters
    ----------
    number
        Of the place.
    message
        The fingerprint of what this process worked on, 0 in one that is no worker.
    """
    global _count
    if not (number and message):
        return number
    known = _within.get((number, message))
    if known is None:
        if _count >= _LIMIT:
            return number
        _count += 1
        known = _within[number, message] = _count
        events.write("place-within", id=known, place=number, fingerprint=message)
    return known


def sender(frame: FrameType | None, thing: Any) -> tuple[int, bool]:
    """Return the place of an object that is about to be sent, and whether it is an answer.

    Parameters
    ----------
    frame
        The function of a library that makes the message.
    thing
        The object.

    Returns
    -------
    place : int
        0 where it is not known.
    is_answer : bool
        Whether nobody but libraries is on the stack, so that a worker answers. The question that
        a library asks by itself, as the proxy of a manager does when it is deleted, is no answer.
    """
    first = frame
    if _loop is not None and frame is not None:
        above = frame.f_back
        if above is _loop or (above is not None and above.f_back is _loop):
            return 0, True
    asks = False
    while frame is not None:
        resolve = resolvers.get(_id(frame.f_code))
        if resolve is not None:
            return resolve(frame, thing), False
        known = _kinds.get(_id(frame.f_code))
        what = known[1] if known is not None else kind(frame)
        if what == READER:
            assert first is not None
            key = (_id(frame.f_code), frame.f_lasti, _id(first.f_code), on_behalf(frame))
            number = _sent_from.get(key)
            if number is None:
                number = place(frame, executor_behind(first), None)
                _kept.append(first.f_code)
                if len(_sent_from) < _LIMIT:
                    _sent_from[key] = number
            return number, False
        if what == END:
            break
        asks = asks or frame.f_code.co_name in RESULT_READERS
        frame = frame.f_back
    if not _runs_kernel():
        return 0, is_worker() and not asks
    if _get_ident() != _main_thread:
        return 0, False  # a library's own thread, which serves every cell
    return place(first, executor_behind(first)), False


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


def _library_behind(frame: FrameType | None) -> str:
    """Return the package that called the executor for the reader, empty where the reader did."""
    while frame is not None and kind(frame) in (CARRIER, OTHER, OWN):
        if kind(frame) == OTHER and any(part in frame.f_code.co_filename for part in _INSTALLED):
            return str(frame.f_globals.get("__name__")).partition(".")[0]
        frame = frame.f_back
    return ""


def executor_of(owner: Any) -> str:
    """Return ``module.class`` of an executor, of the library's class for a reader's subclass."""
    kind_of_owner = type(owner)
    known = _executors.get(kind_of_owner)
    if known is None:
        own = [cls for cls in kind_of_owner.__mro__ if str(cls.__module__).startswith(MODULES)]
        known = _executors[kind_of_owner] = events.qualified((own or [kind_of_owner])[0]) or ""
    return known


def resolve_at(code: CodeType, resolver: Resolver) -> None:
    """Have places found by *resolver* where a function with this code sends an object."""
    _kept.append(code)
    resolvers[_id(code)] = resolver


def is_worker() -> bool:
    """Tell whether this process may work for another one: a library that carries work runs it."""
    return events.forked or is_workers_command(sys.orig_argv)


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
    return not (is_worker() or _runs_kernel())


def run_test(name: str) -> None:
    """Note which test runs: a test may replace the environment, which tells it otherwise.

    Parameters
    ----------
    name
        Its id, empty where it is over.
    """
    global _running_test
    _running_test = name


def test() -> str:
    """Return the id of the test that runs in this process, or started it, empty where none did."""
    if _running_test:
        return _running_test
    if "_pytest" not in sys.modules:
        return _inherited_test
    return _environ.get(_CURRENT_TEST, "").rpartition(" (")[0]  # "id (call)"


def on_behalf(frame: FrameType | None = None) -> str | None:
    """Return the message id of the cell, or the test, on whose behalf this code runs."""
    return cell(frame) if _runs_kernel() else test() or None


def is_anybodys(frame: FrameType | None) -> bool:
    """Tell whether code runs on behalf of a cell, or the reader's code of a program called it."""
    return (cell(frame) if _runs_kernel() else reader_of(frame)) is not None


def cell(frame: FrameType | None = None) -> str | None:
    """Return the message id of the cell on whose behalf this code runs, None where nothing tells.

    ipykernel keeps it in a context variable: a task of `asyncio` still knows the cell that
    created it when it runs during a later one. A thread works for the cell that started it, a
    task of a thread pool for the cell that submitted it; a thread that a library started for
    itself works for no cell that is known.
    """
    if not _runs_kernel():
        return None
    try:
        if _get_ident() != _main_thread:
            import threading

            known = _cell_of_thread.get(threading.current_thread())
            if known is not None:
                return _cell_of_task(frame) or known or _cell_of_context(None)
        return _cell_of_context(_kernel)
    except Exception:
        return None


def _cell_of_context(kernel: Any) -> str | None:
    """Return the cell of this context; of the kernel, where the context has none."""
    global _kernel
    if _kernel is None:
        kernel = _kernel = sys.modules["ipykernel.kernelapp"].IPKernelApp.instance().kernel
    context = getattr(_kernel, "_shell_parent", None)  # ipykernel 7 and later
    parent = context.get(None) if context is not None else None
    if not parent:
        if kernel is None:
            return None
        parent = kernel.get_parent("shell")
    return str(parent["header"]["msg_id"])


def _cell_of_task(frame: FrameType | None) -> str | None:
    """Return the cell that submitted the task of a thread pool that runs in this thread."""
    while frame is not None:
        future = _future_of_task(frame)
        if future is not None:
            return _cells.get(place_of_future(future))
        frame = frame.f_back
    return None


def remember_thread(thread: Any, starter: FrameType | None) -> None:
    """Note on whose behalf a thread starts."""
    # "": a library's own, which may serve any cell.
    of_library = starter is None or kind(starter) in (CARRIER, OWN)
    _cell_of_thread[thread] = "" if of_library else cell(starter) or ""
    if starter is not None and kind(starter) == READER:
        _starts_of_threads[thread] = sources.position(starter)[:2]


def sign_of(function: Any, args: Any = ()) -> tuple[Any, Any]:
    """Return what a function is known by in keys, and what has to be kept for that.

    Parameters
    ----------
    function, args
        The work.

    Returns
    -------
    sign : int or tuple of str
        The id of the code of a function of Python, or of a function of a module that is written in
        C; for anything else, which may be made for one task and hold large data, its names.
    kept : object
        What has the id, so that nothing else gets it. It holds no object of the page.
    """
    known = _signs.get(_id(function))
    if known is not None and known[0]() is function:
        return known[1]
    code = getattr(function, "__code__", None)
    owner: Any = getattr(function, "__self__", None) if type(function) is _Builtin else None
    if type(code) is _Code:
        sign = _id(code), code
    elif function is None or type(owner) is _Module:
        sign = _id(function), function
    else:
        return tuple(names_of(function, args)[:_NAMES]), None
    if function is not None and len(_signs) < _LIMIT:
        try:
            _signs[_id(function)] = weakref.ref(function), sign
        except TypeError:  # a class of the reader's that has a code, but no weak references
            pass
    return sign


def names_of(function: Any, arguments: Any = (), depth: int = 3) -> list[str]:
    """Name a function, those that it wraps, and those among its arguments."""
    coroutine = (
        getattr(function, "cr_frame", None) if type(function).__name__ == "coroutine" else None
    )
    if coroutine is not None:
        return [f"{coroutine.f_globals.get('__name__', '')}.{function.__qualname__}"]
    names = [events.qualified(function) or events.qualified(type(function)) or ""]
    inner: list[Any] = []
    # Only what is known to be plain is looked into: an object of the page may run code when asked
    # for an attribute.
    if type(function) is getattr(sys.modules.get("functools"), "partial", None):
        inner = [function.func, *function.args[:6]]
    elif type(function).__name__ in ("function", "_lru_cache_wrapper"):
        inner = [function.__dict__.get("__wrapped__")]
    elif (task := first_of_batch(function)) is not None:
        inner = [task]
    arguments = arguments if type(arguments) in (tuple, list) else ()
    for thing in [*inner, *arguments[:6]]:
        if depth and callable(thing):
            names += names_of(thing, (), depth - 1)
    return names


def first_of_batch(thing: Any) -> Any:
    """Return the function of the first task of a library's batch, None for anything else."""
    attribute = BATCHES.get(events.qualified(type(thing)) or "")
    return next((task[0] for task in getattr(thing, attribute, ())), None) if attribute else None


def forget() -> None:
    """Begin anew in a forked child: its places are its own."""
    global _count, _loop
    _loop = None
    _places.clear()
    _within.clear()
    _sent_from.clear()
    _cell_of_thread.clear()
    _starts_of_threads.clear()
    _cells.clear()
    _positions.clear()
    _count = 0


def _runs_kernel() -> bool:
    """Tell whether this process is a kernel; a forked copy has the kernel as it was then."""
    return not events.forked and "ipykernel.kernelapp" in sys.modules


def _number_of(reader: FrameType | None) -> int | None:
    """Return the execution count of the cell in which a frame's code stands."""
    if reader is None or not _runs_kernel():
        return None
    try:
        shell = sys.modules["IPython"].get_ipython()
        number = shell.compile._filename_map.get(reader.f_code.co_filename)
        return number if type(number) is int else None
    except Exception:
        return None
