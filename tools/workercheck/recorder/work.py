"""Work that is handed to executors, known by its future: where, and what became of it.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import sys

from workercheck.libraries import is_of_library
from workercheck.recorder import (
    asynchronous,
    behalf,
    events,
    frames,
    handles,
    messages,
    monitor,
    naming,
    places,
    returned,
)

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, FrameType
    from typing import Any

_id = events.identity

current_call: handles.Call | None = None
"""Of the `Executor.map`, or the like, that hands work out now."""
_begun: dict[int, handles.Call] = {}
"""By the id of the frame that makes such a call: what its pieces have in common.

Before Python 3.12, a frame is another object at its return than at its start; its caller is not.
"""
_mapper: CodeType | None = None
"""The code of that function."""
_mapped: Any = None
"""The function that it maps, where it does not hand it out as it is."""
_DEPTH = 12
"""How many functions may lie between that function and what hands out each piece."""

_submissions: dict[tuple[Any, ...], tuple[handles.Work, Any]] = {}
"""By the reader's code, instruction, cell, handler and function: the work, and what keeps the
function's id its own."""
_LIMIT = 20_000


def submitted(argument: str) -> monitor.Handler:
    """Make the handler for a method that returns the future of the function in *argument*."""

    def handler(frame: FrameType, future: Any) -> None:
        work = work_of(frame, future, argument, handler)
        if work is not None:
            handed_out(future, work)

    return handler


def handed_out(future: Any, work: handles.Work) -> None:
    """Note the future of a piece of work, which may have failed before it was handed out."""
    handles.note(future, work)
    error = getattr(future, "_exception", None)
    if error is not None:
        handles.failed(handles.of(future), error)


def work_of(
    frame: FrameType, future: Any, argument: str, handler: monitor.Handler
) -> handles.Work | None:
    """Return what the handle of a future has in common with others, None where it needs no handle.

    Parameters
    ----------
    frame
        Of the method that returns the future.
    future
        What it returns.
    argument
        Its argument with the function.
    handler
        Of the method: others may be called by the same instruction.
    """
    here, caller = frame.f_locals, frame.f_back
    call = _call_of(caller) if current_call is not None else None
    function = here.get(argument) if call is None or _mapped is None else _mapped
    sign, kept = naming.sign_of(function, here.get("args"))
    key: Any = None
    if caller is not None:
        key = _id(caller.f_code), caller.f_lasti, behalf.on_behalf(caller), handler, sign
    known = _submissions.get(key)
    if known is not None:
        work = known[0]
    elif not hasattr(future, "set_exception") or handles.of(future) is not None:
        return None  # the results themselves, or a class that submits through its base
    elif (sibling := _sibling(caller)) is not None:
        work = "future", sibling.place, sibling.owned, sibling.call, messages.loaded()
    elif (passed_on := _passed_on(caller)) is not None:
        work = "future", passed_on.place, False, None, messages.loaded()
    else:
        executor = (
            places.executor_of(here["self"]) if "self" in here else frames.executor_behind(frame)
        )
        place = places.place(caller, executor, function, here.get("args") or ())
        work = "future", place, returned.reaches_reader(caller), None, messages.loaded()
        # What calls from a library may be called from anywhere.
        if caller is not None and frames.is_reader(caller) and len(_submissions) < _LIMIT:
            _submissions[key] = work, kept
    call = call or work[3]
    if call is not work[3] or work[4] != messages.loaded():
        work = *work[:3], call, messages.loaded()
    return work


def _sibling(caller: FrameType | None) -> handles.Handle | None:
    """Return the handle of other work of an `Executor.map` that hands more out as it is read."""
    if caller is None or caller.f_code.co_name != "result_iterator":
        return None
    return handles.of(next(iter(caller.f_locals.get("fs") or ()), None))


def _passed_on(frame: FrameType | None) -> handles.Handle | None:
    """Return the handle of the work that a library between executors hands on by itself.

    Its thread serves all cells; what it works on has the future that it has given the reader.
    """
    found = None
    while frame is not None and found is None:
        what = frames.kind(frame)
        if what in (frames.READER, frames.END):
            return None
        if frames.is_installed(frame):
            found = _handle_among(frame.f_locals.values())
        frame = frame.f_back
    return found if frames.reader_of(frame) is None else None


def _handle_among(values: Iterable[Any]) -> handles.Handle | None:
    for value in list(values):
        attributes = events.attribute(value, "__dict__")
        for one in (value, *(attributes.values() if type(attributes) is dict else ())):
            handle = handles.of(one)
            if handle is not None and handle.made_by is not None:
                return handle
    return None


def may_make_no_futures(spec: Any, module: Any) -> bool:
    """Tell whether a module cannot make futures; for the first that can, watch how they are made.

    Each task of an executor has a future, so that this is watched where a library asks for it.
    """
    base = sys.modules.get("concurrent.futures._base")
    origin = spec.origin
    if (
        base is None
        or type(origin) is not str
        or not frames.is_installed_file(origin)
        or is_of_library(spec.name)
    ):
        return True
    wanted = {_id(sys.modules.get(name)) for name in ("concurrent", "concurrent.futures")}
    wanted.add(_id(base.Future))
    names = object.__getattribute__(module, "__dict__")
    if not any(_id(value) in wanted for value in list(names.values())):
        return True
    monitor.watch_now(base.Future, "__init__", "return", future_made)
    return False


def future_made(frame: FrameType, _: Any) -> None:
    """Note a future that an installed library makes, to stand for that of an executor.

    The executor's own is the library's to look at; who has a name for the new one has to look at
    it. What a library of `workercheck.libraries` makes is known by what it says there.
    """
    maker = frame.f_back
    if maker is None or frames.kind(maker) != frames.OTHER:
        return
    future: Any = frame.f_locals["self"]
    while maker is not None and maker.f_locals.get("self") is future:  # of a class of its own
        maker = maker.f_back
    if (
        maker is None
        or not frames.is_installed(maker)
        or is_of_library(frames.module_of(maker))
        or handles.of(future) is not None
    ):
        return
    called = frames.called_by_reader(maker)
    if called is None:
        return  # the library's own affair
    owner, function, args = called.f_locals.get("self"), None, ()
    if called.f_code.co_name == "submit":  # as each Executor has it, whatever it calls the function
        function, args = _first_argument(called)
    place = places.place(maker, events.qualified(type(owner)) or "", function, args)
    handles.register(future, "future", place, owned=False)
    handle = handles.of(future)
    if handle is not None:
        handle.made_by = called.f_code


def _first_argument(frame: FrameType) -> tuple[Any, Any]:
    """Return what the method of a frame was given first, and the rest of a list of arguments."""
    code, here = frame.f_code, frame.f_locals
    names = code.co_varnames
    given = here.get(names[code.co_argcount + code.co_kwonlyargcount]) if code.co_flags & 4 else ()
    if code.co_argcount > 1:
        return here.get(names[1]), given or ()
    return (given[0], given[1:]) if given else (None, ())


def _call_of(caller: FrameType | None) -> handles.Call | None:
    for _ in range(_DEPTH):
        if caller is None:
            break
        if caller.f_code is _mapper:
            return current_call
        caller = caller.f_back
    return None


def map_begins(frame: FrameType, _: Any) -> None:
    """Note that the futures of one `Executor.map` follow."""
    global current_call, _mapper
    current_call, _mapper = handles.Call(), frame.f_code
    # Nobody can look at what a map handed out before it ended of an error of its source.
    current_call.seen = True
    _begun[_id(frame.f_back)] = current_call


def map_of_begins(attribute: str) -> monitor.Handler:
    """Make the handler for an object that maps the function in *attribute*."""

    def handler(frame: FrameType, _: Any) -> None:
        global _mapped
        map_begins(frame, None)
        _mapped = getattr(frame.f_locals["self"], attribute, None)

    return handler


def map_ends(frame: FrameType, _: Any) -> None:
    """Note that they have all been made, and that the page gets them."""
    global current_call, _mapper, _mapped
    call = _begun.pop(_id(frame.f_back), None)
    if call is not None:
        call.seen = False
    current_call = _mapper = _mapped = None


def whole_made(frame: FrameType, _: Any) -> None:
    """Note what a map returns for all its pieces: who looks at it has seen each of them."""
    call = _call_of(frame.f_back)
    if call is not None:
        handles.register(frame.f_locals["self"], handles.WHOLE, 0, owned=False, call=call)


def future_failed(frame: FrameType, _: Any) -> None:
    """Note the exception of a future."""
    here = frame.f_locals
    asynchronous.failed_after_loop(here["self"], here["exception"])
    handle = handles.of(here["self"])
    if handle is not None:
        handles.failed(handle, here["exception"])


def future_raises(frame: FrameType, _: Any) -> bool:
    """Note that a future raises its exception for somebody who asked for the result.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that run with an exception are.
    """
    future: Any = frame.f_locals["self"]
    if getattr(future, "_exception", None) is None:
        return False
    was_asked(frame, None)
    return True


def was_asked(frame: FrameType, _: Any) -> None:
    """Note that somebody asks for the outcome of a piece of work.

    A library that looks at the future that it made, to count failures, has told nobody: it does so
    in a thread of its own, or before it returns the future.
    """
    handle = handles.of(frame.f_locals["self"])
    if handle is None or handle.owned or not _is_library_behind(frame, handle):
        handles.asked(handle)
    elif handle.made_by is None:
        handles.passed_on(handle)


def _is_library_behind(frame: FrameType, handle: handles.Handle) -> bool:
    """Tell whether a library looks at work that it handed out, and not on the reader's behalf."""
    caller = frames.caller_of_library(frame)
    if caller is None or not frames.is_installed(caller):
        return False
    called = frames.called_by_reader(caller)
    return called is None or called.f_code is handle.made_by


def was_asked_with(argument: str) -> monitor.Handler:
    """Make the handler for a method that asks for an outcome where *argument* is given."""

    def handler(frame: FrameType, _: Any) -> None:
        if frame.f_locals.get(argument) is not None:
            was_asked(frame, None)

    return handler


def wrapped_asked(attribute: str) -> monitor.Handler:
    """Make the handler for a method that asks for the outcome of the work in *attribute*."""

    def handler(frame: FrameType, _: Any) -> None:
        handles.asked(handles.of(getattr(frame.f_locals["self"], attribute)))

    return handler


def was_shown(frame: FrameType, _: Any) -> None:
    """Note that the state of a piece of work was shown, with its failure if there is one."""
    handles.shown(handles.of(frame.f_locals["self"]))


def was_read(frame: FrameType, _: Any) -> None:
    """Note that the reader's code asked a piece of work for a text, which tells of its failure.

    A notebook shows by itself what `submit` has returned in the last line of a cell, and a library
    has the work in its messages to the log: nobody asked for those.
    """
    if frame.f_back is not None and frames.is_reader(frame.f_back):
        was_shown(frame, None)


def thread_pool_made(frame: FrameType, _: Any) -> None:
    """Notice a pool of threads that the page makes: nothing is sent, but it is used."""
    pool = frame.f_locals["self"]
    if type(pool).__name__ == "ThreadPoolExecutor" and behalf.is_held_by_reader(frame.f_back):
        places.place(frame.f_back, places.executor_of(pool))


def forget() -> None:
    """Begin anew in a forked child."""
    map_ends(sys._getframe(), None)
    _begun.clear()
    _submissions.clear()
