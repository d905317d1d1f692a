"""Work that a scheduler knows by a key, as Dask does: its futures come and go.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

from workercheck.recorder import behalf, events, frames, handles, messages, monitor, places

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

_under_way: dict[Any, int] = {}
"""By the key of a future that has no result yet: the place of its work."""
_sent_off: dict[Any, handles.Handle] = {}
"""By its key: work that is to be done though nobody holds its future."""
_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`: importing inspect would cost each interpreter milliseconds."""


def submitted(argument: str) -> monitor.Handler:
    """Make the handler for a method of a client that returns futures of a function."""

    def handler(frame: FrameType, value: Any) -> None:
        owned = behalf.is_held_by_reader(frame.f_back)
        _register(frame, value, "future", frame.f_locals.get(argument), owned=owned)

    return handler


def graph_submitted(frame: FrameType, value: Any) -> None:
    """Note the futures of a whole graph of tasks; those of a collection are kept within it."""
    caller = frame.f_back
    is_library = caller is not None and frames.kind(caller) == frames.CARRIER
    method = caller.f_code.co_name if caller is not None and is_library else ""
    if method in ("submit", "map"):
        return  # their own handlers know the function
    is_kept = method == "persist" and frames.is_reader_behind(caller and caller.f_back)
    owned = is_kept or behalf.is_held_by_reader(caller)
    _register(frame, value, "collection" if is_kept else "future", None, owned=owned)


def _register(frame: FrameType, value: Any, what: str, function: Any, *, owned: bool) -> None:
    here = frame.f_locals
    executor = places.executor_of(here["self"])
    place = places.place(frame.f_back, executor, function, here.get("args"))
    call = handles.Call()
    for future in _futures_in(value):
        state = getattr(future, "_state", None)
        if state is not None and handles.of_key(state) is None:
            if state.status not in ("finished", "error"):
                _under_way[state.key] = place
            handles.register(future, what, place, owned=owned, call=call, key=state)
            messages.note(_number_of(state.key), place)
            # Quick work may have failed before its future was handed out.
            handles.failed(handles.of_key(state), state.exception)


def finished(frame: FrameType, _: Any) -> None:
    """Note that a future of Dask has its result, whichever worker made it."""
    _under_way.pop(frame.f_locals["self"].key, None)


def failed(frame: FrameType, _: Any) -> None:
    """Note the exception of a future of Dask."""
    state = frame.f_locals["self"]
    place = _under_way.pop(state.key, None)
    if place is not None and type(state.exception).__name__ == "KilledWorker":
        events.write("unfinished", place=place, is_given_up=True)
    handles.failed(handles.of_key(state), state.exception)


def status_read(frame: FrameType, status: Any) -> None:
    """Note that somebody saw by the status of a future of Dask that its work failed.

    Who asks the future for its result, its exception or its traceback has a coroutine of the
    future read it, once the work is done: who did not wait for as long has seen nothing.
    """
    caller = frame.f_back
    if status != "error" or caller is None:
        return
    answers = (
        caller.f_code.co_flags & _COROUTINE
        and caller.f_locals.get("self") is frame.f_locals["self"]
    )
    if answers or frames.kind(caller) != frames.CARRIER:
        shown(frame, status)


def shown(frame: FrameType, _: Any) -> None:
    """Note that a future of Dask was shown, with its status."""
    handles.shown(_handle_of(frame.f_locals["self"]))


def gathered(frame: FrameType, _: Any) -> None:
    """Note that the results of futures of Dask are asked for."""
    for future in _futures_in(frame.f_locals.get("futures")):
        handles.asked(_handle_of(future))


def sent_off(frame: FrameType, _: Any) -> None:
    """Note futures that the page lets go of, though their work is to be done."""
    here = frame.f_locals
    # On Python 3.11, only arguments are known: `workercheck.recorder.monitor311`.
    for future in _futures_in(here.get("futures", here.get("obj"))):
        handle = _handle_of(future)
        if handle is not None:
            _sent_off[future.key] = handle


def erred(frame: FrameType, _: Any) -> None:
    """Note, in the process of the scheduler, that work failed whose future is gone."""
    here = frame.f_locals
    handle = _sent_off.pop(here["ts"].key, None)
    if handle is not None and handle.thing() is None:
        handles.fail(handle, *of_repr(here.get("exception_text") or ""))


def of_repr(text: str) -> tuple[str, str]:
    """Return the class and the message of an error that is known by its ``repr`` only."""
    exception, _, message = text.partition("(")
    message = message.removesuffix(")")
    if message[:1] in ("'", '"') and message[:1] == message[-1:]:
        message = message[1:-1]
    return exception, events.text(message)[:1000]


def begins(frame: FrameType, _: Any) -> None:
    """Note, in a worker, which work a thread begins."""
    messages.thread_works_on(_number_of(frame.f_locals["key"]))


def ends(_frame: FrameType, _: Any) -> None:
    """Note that the thread is done with it."""
    messages.thread_works_on(0)


def _number_of(key: Any) -> int:
    """Return the number by which the client's word on a key is joined to the worker's."""
    return messages.fingerprint(str(key).encode(errors="replace"))


def method_called(frame: FrameType, future: Any) -> None:
    """Note the future of a method of an actor, whose event is the handle.

    The future itself has no weak references.
    """
    caller = frame.f_back
    place = places.place(caller, places.executor_of(frame.f_locals["self"]))
    handles.register(future._event, "future", place, owned=behalf.is_held_by_reader(caller))


def method_answered(frame: FrameType, _: Any) -> None:
    """Note that a method of an actor failed."""
    here = frame.f_locals
    handles.failed(handles.of(here["self"]._event), getattr(here["out"], "_e", None))


def _handle_of(future: Any) -> handles.Handle | None:
    return handles.of_key(getattr(future, "_state", None))


def _futures_in(value: Any, depth: int = 3) -> Iterator[Any]:
    if hasattr(value, "_state"):
        yield value
    elif depth and isinstance(value, dict):
        for one in list(value.values()):
            yield from _futures_in(one, depth - 1)
    elif depth and isinstance(value, list | tuple | set):
        for one in list(value):
            yield from _futures_in(one, depth - 1)


def tell() -> None:
    """Write what never had a result."""
    for place in dict.fromkeys(_under_way.values()):
        events.write("unfinished", place=place, is_given_up=False)
    _under_way.clear()


def forget() -> None:
    """Begin anew in a forked child."""
    _under_way.clear()
    _sent_off.clear()
