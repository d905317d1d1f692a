"""On whose behalf code runs: a cell of a notebook, a test, or who started a thread.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import sys
import weakref
from _thread import get_ident as _get_ident
from os import environ as _environ

from workercheck.libraries import DISPATCHERS
from workercheck.recorder import frames, sources
from workercheck.recorder.this_process import runs_kernel

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_CURRENT_TEST = "PYTEST_CURRENT_TEST"
_inherited_test = _environ.get(_CURRENT_TEST, "").rpartition(" (")[0]
"""The test that started this process, empty where none did."""

_running_test = ""
"""The test that runs in this process, where pytest's plugin tells; empty elsewhere."""

_cell_of_thread: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_starts_of_threads: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()
"""File and line at which the reader's own code started a thread."""
cells: dict[int, str | None] = {}
"""By the number of a place: its cell."""
positions: dict[int, tuple[str, int]] = {}
"""By the number of a place where the reader handed work out, or had `asyncio` do so: its file and
line."""
_kernel: Any = None
main_thread = _get_ident()

place_of_future: Callable[[Any], int] = lambda future: 0  # noqa: E731 - set by `sent_later`
"""Returns the place of a future, 0 where it is not known."""


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
    # Asked for each task: most processes are neither a kernel nor a test's.
    if "ipykernel.kernelapp" in sys.modules and runs_kernel():
        return _cell(frame)
    if "_pytest" in sys.modules or _running_test or _inherited_test:
        return test() or None
    return None


def is_anybodys(frame: FrameType | None) -> bool:
    """Tell whether code runs on behalf of a cell, or the reader's code of a program called it."""
    return (cell(frame) if runs_kernel() else frames.reader_of(frame)) is not None


def cell(frame: FrameType | None = None) -> str | None:
    """Return the message id of the cell on whose behalf this code runs, None where nothing tells.

    ipykernel keeps it in a context variable: a task of `asyncio` still knows the cell that
    created it when it runs during a later one, also where its loop runs in another thread.
    Otherwise a thread works for the cell that started it, and a task of a thread pool for the cell
    that submitted it; a thread that a library started for itself works for no cell that is known.
    """
    return _cell(frame) if runs_kernel() else None


def _cell(frame: FrameType | None) -> str | None:
    try:
        if _get_ident() != main_thread:
            import threading

            known = _cell_of_thread.get(threading.current_thread())
            if known is not None:
                # A thread begins with no context or its starter's; a loop's tasks have their own.
                return _cell_of_task(frame) or _cell_of_context() or known or None
        return _cell_of_context() or _message_of(_get_kernel().get_parent("shell"))
    except Exception:
        return None


def _cell_of_context() -> str | None:
    """Return the cell of this context, None where the context has none."""
    context = getattr(_get_kernel(), "_shell_parent", None)  # ipykernel 7 and later
    return _message_of(context.get(None)) if context is not None else None


def _get_kernel() -> Any:
    global _kernel
    if _kernel is None:
        _kernel = sys.modules["ipykernel.kernelapp"].IPKernelApp.instance().kernel
    return _kernel


def _message_of(parent: Any) -> str | None:
    return str(parent["header"]["msg_id"]) if parent else None


def _cell_of_task(frame: FrameType | None) -> str | None:
    """Return the cell that submitted the task of a thread pool that runs in this thread."""
    while frame is not None:
        future = _future_of_task(frame)
        if future is not None:
            return cells.get(place_of_future(future))
        frame = frame.f_back
    return None


def remember_thread(thread: Any, starter: FrameType | None) -> None:
    """Note on whose behalf a thread starts."""
    # "": a library's own, which may serve any cell.
    of_library = starter is None or frames.kind(starter) in (frames.CARRIER, frames.OWN)
    _cell_of_thread[thread] = "" if of_library else cell(starter) or ""
    if starter is not None and frames.kind(starter) == frames.READER:
        _starts_of_threads[thread] = sources.position(starter)[:2]


def is_held_by_reader(frame: FrameType | None) -> bool:
    """Tell whether what a function returns to *frame* reaches the reader's own code.

    The frames of executors are passed over: ``Executor.map`` calls ``submit`` for its caller. So is
    a timer to which the reader gave ``submit`` itself: that the timer drops the future was the
    reader's choice. A pool of threads that was given ``submit`` has the future as its result.
    """
    task = _task_behind(frame)
    if task is not None:
        return place_of_future(task) in positions
    caller = frames.caller_of_library(frame)
    if caller is None or frames.kind(caller) == frames.READER:
        return caller is not None
    return _is_dispatcher(caller) and _is_given(caller)


def _is_dispatcher(frame: FrameType) -> bool:
    return frames.path_of(frame) in DISPATCHERS


def _is_given(dispatcher: FrameType) -> bool:
    """Tell whether the reader gave a dispatcher what it calls."""
    if runs_kernel() and frames.module_of(dispatcher).startswith("asyncio."):
        return _cell_of_context() is not None  # of which the kernel's own loop knows nothing
    caller = dispatcher.f_back
    while caller is not None and caller.f_code.co_filename.startswith(frames.STDLIB):
        caller = caller.f_back
    if caller is None:
        return _start_of_thread(dispatcher) is not None
    return frames.kind(caller) == frames.READER


def _start_of_thread(frame: FrameType | None) -> tuple[str, int] | None:
    """Return where the reader started this thread, if all it does is to call a library."""
    caller = frames.caller_of_library(frame)
    if caller is None or not _is_dispatcher(caller):
        return None
    threading: Any = sys.modules.get("threading")
    return threading and _starts_of_threads.get(threading.current_thread())


def _task_behind(frame: FrameType | None) -> Any:
    """Return the future of a task of a thread pool that does nothing but call a library."""
    while frame is not None and frames.kind(frame) in (frames.CARRIER, frames.OWN):
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


def given_at(frame: FrameType | None) -> tuple[str, int] | None:
    """Return where the reader gave a thread, or a pool of threads, what it calls."""
    task = _task_behind(frame)
    return positions.get(place_of_future(task)) if task is not None else _start_of_thread(frame)


def number_of_cell(reader: FrameType | None) -> int | None:
    """Return the execution count of the cell in which a frame's code stands."""
    if reader is None or not runs_kernel():
        return None
    try:
        shell = sys.modules["IPython"].get_ipython()
        number = shell.compile._filename_map.get(reader.f_code.co_filename)
        return number if type(number) is int else None
    except Exception:
        return None


def forget() -> None:
    """Begin anew in a forked child: its threads are its own."""
    _cell_of_thread.clear()
    _starts_of_threads.clear()
    cells.clear()
    positions.clear()
