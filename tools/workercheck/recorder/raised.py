"""Errors that end a process or a thread of a library, or that a library keeps to itself.

Each handler is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import sys

from workercheck.recorder import events, frames, handles, monitor, results

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any


def error_printed(frame: FrameType, _: Any) -> None:
    """Write which error ended this process of `multiprocessing`."""
    caller = frame.f_back
    if caller is not None and frames.kind(caller) == frames.END:
        _raised("process", sys.exc_info()[1], 0)


def error_logged(frame: FrameType, _: Any) -> None:
    """Write which error in its initializer ended this worker of an executor.

    The threads of an executor log errors in the same way: no process ends, and the futures know.
    """
    import threading

    caller = frame.f_back
    if (
        caller is not None
        and frames.kind(caller) == frames.CARRIER
        and caller.f_locals.get("initializer") is not None
        and threading.current_thread() is threading.main_thread()
    ):
        _raised("initializer", sys.exc_info()[1], 0)


def initializer_error_kept(_frame: FrameType, _: Any) -> bool:
    """Write which error in its initializer a library catches before it ends this worker.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that handle an exception are.
    """
    error = sys.exc_info()[1]
    _raised("initializer", error, 0)
    return error is not None


def exit_kept(_frame: FrameType, _: Any) -> bool:
    """Write that the initializer of a Pool left this worker with `sys.exit`: nothing is printed.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that handle an exception are.
    """
    error = sys.exc_info()[1]
    tb = error.__traceback__ if isinstance(error, SystemExit) else None
    while tb is not None and not _is_in_initializer(tb, error):
        tb = tb.tb_next
    if tb is not None:
        _raised("initializer", error, 0)
    return error is not None


def watch_service_threads(threading: Any) -> None:
    """Notice an error that ends a thread which serves an executor: results are lost with it."""
    if not hasattr(sys, "monitoring"):
        from workercheck.recorder import monitor311

        monitor311.before_excepthook(threading, _thread_ends)
        return
    maker = threading._make_invoke_excepthook.__code__
    inner = [c for c in maker.co_consts if getattr(c, "co_name", "") == "invoke_excepthook"]
    if inner:
        monitor.observe(inner[0], "start", _thread_ends)


def _thread_ends(_frame: FrameType, _: Any) -> None:
    error = sys.exc_info()[1]
    place = _place_of_callback(error)
    if place:
        _raised("service-thread", error, place)
        return
    threading = sys.modules["threading"]
    if not hasattr(threading.excepthook, "__globals__"):  # nobody's own, which would be told
        handles.lost(error)
        results.thread_failed(threading.current_thread(), error)


def callback_error_kept(_frame: FrameType, _: Any) -> bool:
    """Write which error of a callback an executor took for one of its own, and kept to itself.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that handle an exception are.
    """
    error = sys.exc_info()[1]
    place = _place_of_callback(error)
    if place:
        _raised("callback", error, place)
    return error is not None


def _place_of_callback(error: BaseException | None) -> int:
    """Return the place of the result whose callback raised an error, 0 where none did."""
    tb = error.__traceback__ if error is not None else None
    while tb is not None and frames.kind(tb.tb_frame) != frames.READER:
        # The method that hands a result out is on the stack, and calls what raised.
        if frames.kind(tb.tb_frame) == frames.CARRIER:
            place = handles.place_of(tb.tb_frame.f_locals.get("self"))
            if place:
                return place
        tb = tb.tb_next
    return 0


def callback_error_logged(frame: FrameType, _: Any) -> None:
    """Note that a callback of a future raised the failure of its work, which is only logged."""
    caller = frame.f_back
    if caller is not None and caller.f_code.co_name in ("_invoke_callbacks", "add_done_callback"):
        handles.lost(sys.exc_info()[1])


def _raised(what: str, error: BaseException | None, place: int) -> None:
    if error is None:
        return
    tb = error.__traceback__
    own = None
    while tb is not None:
        if own is None and frames.is_reader(tb.tb_frame):
            own = tb.tb_frame
        if what == "process" and _is_in_initializer(tb, error):
            what = "initializer"
        tb = tb.tb_next
    events.write(
        "raised",
        what=what,
        place=place,
        exception=events.qualified(type(error)) or "",
        message=events.message_of(error),
        function=frames.name_of(own) if own is not None else None,
    )


def _is_in_initializer(tb: Any, error: BaseException | None) -> bool:
    """Tell whether an error comes from the initializer of a Pool; it catches those of tasks."""
    initializer = tb.tb_frame.f_locals.get("initializer")
    if initializer is None or frames.kind(tb.tb_frame) != frames.CARRIER:
        return False
    code = events.attribute(initializer, "__code__")
    if tb.tb_next is None:  # written in C
        return code is None and isinstance(error, Exception)
    return tb.tb_next.tb_frame.f_code is code
