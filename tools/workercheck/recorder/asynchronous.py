"""Tasks and futures of `asyncio` that failed without anybody awaiting them.

asyncio itself knows whether anybody asked for an exception, and says so when a task is thrown away;
a task that a variable still holds at the end of the page is looked at then.
"""

from __future__ import annotations

import contextlib
import weakref

from workercheck.libraries import HOUSEKEEPING, MODULES
from workercheck.recorder import behalf, events, frames, handles, messages, places

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_id = events.identity
_Function = type(lambda: None)

_tasks: dict[int, tuple[weakref.ref[Any], int, int]] = {}
"""By id: tasks and futures of event loops that the page made, with their places, and the messages
on whose behalf workers made them."""


def task_made(frame: FrameType, task: Any) -> None:
    """Note a task that was made on behalf of a cell, or by the reader's code of a program."""
    # Not asked of the task, which may be of a class of the page's own.
    coroutine = frame.f_locals.get("coro")
    # One that is written in Cython has no frame.
    body = getattr(coroutine, "cr_frame", None)
    module = str(body.f_globals.get("__name__", "")) if body is not None else ""
    if module.startswith((*HOUSEKEEPING, "workercheck.")) or not behalf.is_anybodys(frame):
        return
    _remember(task, frame, coroutine)


def loop_future_made(argument: str) -> Callable[[FrameType, Any], None]:
    """Make the handler for what returns a future of an event loop, for the work in *argument*.

    A future that stands for another one, such as that of `asyncio.shield`, asks that one for its
    exception: from then on it is itself the one that somebody has to look at.
    """

    def handler(frame: FrameType, future: Any) -> None:
        if not behalf.is_held_by_reader(frames.outside_asyncio(frame.f_back)) or future is None:
            return
        work = frame.f_locals.get(argument)
        _, place, _ = _tasks.get(_id(work), (None, 0, 0))
        function = _function_of_all(future) if hasattr(future, "_children") else work
        _remember(future, frame, function, place or handles.place_of(work))

    return handler


def _function_of_all(future: Any) -> Any:
    """Return a coroutine of the function that all tasks of `asyncio.gather` run, None if several.

    Which of several it is that will fail is not known.
    """
    tasks = getattr(future, "_children", ())
    coroutines = [_coroutine_of(task) for task in tasks if hasattr(task, "get_coro")]
    codes = {_id(events.attribute(coroutine, "cr_code")) for coroutine in coroutines}
    return coroutines[0] if len(coroutines) == len(tasks) and len(codes) == 1 else None


def _coroutine_of(task: Any) -> Any:
    """Return what a task runs, None for one that an eager start has finished.

    For such a task, `get_coro` of Python 3.12.1 ends the process with SIGSEGV. The attribute is
    what asyncio's own `repr` of a task reads.
    """
    return getattr(task, "_coro", None)


def thread_future_made(frame: FrameType, future: Any) -> None:
    """Note the future of a coroutine that runs in the event loop of another thread."""
    if future is not None and behalf.is_held_by_reader(frame.f_back):
        place = places.place(frame.f_back, "asyncio", frame.f_locals.get("coro"))
        handles.register(future, "future", place, owned=True)
        handles.failed(handles.of(future), getattr(future, "_exception", None))


def task_read(frame: FrameType, _: Any) -> None:
    """Note that the reader's code asked a task for a text, which tells of its failure."""
    caller = frame.f_back
    while caller is not None and frames.module_of(caller).startswith(("asyncio.", "reprlib")):
        caller = caller.f_back
    task = frame.f_locals["future"]
    if caller is not None and frames.is_reader(caller) and task.done():
        _tasks.pop(_id(task), None)


def never_retrieved(frame: FrameType, _: Any) -> None:
    """Take what asyncio says of a task that was dropped."""
    context: Any = frame.f_locals["context"]
    thing = context.get("task") or context.get("future")
    known = _tasks.pop(_id(thing), None)
    if getattr(frame.f_locals["self"], "_exception_handler", None) is not None:
        return  # whoever set it is told
    if known is not None and "never retrieved" in context.get("message", ""):
        _tell(places.within(*known[1:]), context["exception"])


def failed_after_loop(source: Any, error: BaseException) -> None:
    """Tell of work in an executor whose failure reaches nobody: its event loop is closed.

    The future of the event loop, which the page got, is among what the callbacks of the
    executor's future hold. One that was cancelled was given up on purpose.
    """
    for callback in list(getattr(source, "_done_callbacks", ())):
        if type(callback) is not _Function or callback.__module__ != "asyncio.futures":
            continue
        cells = zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True)
        held: dict[str, Any] = {name: cell.cell_contents for name, cell in cells}
        future: Any = held.get("destination")
        loop = held.get("dest_loop")
        known = _tasks.get(_id(future))
        if known is None or loop is None or not loop.is_closed() or future.done():
            continue
        if known[0]() is future:  # another object may have got the id since
            del _tasks[_id(future)]
            _tell(places.within(*known[1:]), error)


def tell() -> None:
    """Write an event for each task that failed and that nobody awaited."""
    for reference, place, message in list(_tasks.values()):
        task = reference()
        # What asyncio itself goes by when it says "exception was never retrieved".
        if task is not None and task.done() and getattr(task, "_log_traceback", False):
            _tell(places.within(place, message), task._exception)
    _tasks.clear()


def under_way() -> list[Callable[[], Any]]:
    """Return weak references to the futures of event loops, for work elsewhere, without outcome.

    Of a task it is not known whether it waits for work, or for tomorrow, unless it is that of
    `asyncio.to_thread`.
    """
    found = [reference for reference, *_ in list(_tasks.values())]
    return [it for it in found if _is_for_work(it()) and handles.has_no_outcome(it())]


def _is_for_work(thing: Any) -> bool:
    if not hasattr(thing, "get_coro"):
        return True
    return getattr(_coroutine_of(thing), "__qualname__", "") == "to_thread"


def loops() -> list[AbstractEventLoop]:
    """Return the running event loops in which tasks of the page are under way."""
    tasks = [reference() for reference, *_ in list(_tasks.values())]
    found = {_id(t.get_loop()): t.get_loop() for t in tasks if t is not None and not t.done()}
    return [loop for loop in found.values() if loop.is_running()]


def forget() -> None:
    """Begin anew in a forked child."""
    _tasks.clear()


def _remember(task: Any, frame: FrameType, function: Any, place: int = 0) -> None:
    place = place or places.place(frames.outside_asyncio(frame.f_back), "asyncio", function)
    key = _id(task)

    def gone(reference: Any) -> None:
        if _tasks.get(key, (None,))[0] is reference:
            del _tasks[key]

    # A task speaks of its error before its weak references are told that it has gone.
    with contextlib.suppress(TypeError):  # a task of a class of the page's own
        _tasks[key] = (weakref.ref(task, gone), place, messages.loaded())


def _tell(place: int, error: BaseException) -> None:
    if any(
        cls.__module__.startswith(MODULES) and "Broken" in cls.__name__
        for cls in type(error).__mro__
    ):
        return
    handles.write("task", place, events.qualified(type(error)) or "", events.message_of(error), 1)
