"""The results of pools, of threads and of joblib: where their work was handed out, and its failure.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import sys
import weakref

from workercheck.recorder import (
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
    from types import FrameType
    from typing import Any

_id = events.identity

_chunks: weakref.WeakKeyDictionary[Any, dict[int, int]] = weakref.WeakKeyDictionary()
"""By the future of a whole map: at which place each of its chunks is, by the chunk's id."""
_thread_failures: weakref.WeakKeyDictionary[Any, tuple[str, str]] = weakref.WeakKeyDictionary()
"""Name and message of the error that ended a thread: the error would keep the page's objects."""
_FUNCTION = frozenset(("func", "function"))
"""What the methods of pools call the function that is to run."""


def result_raises(frame: FrameType, _: Any) -> bool:
    """Note that a result of a Pool raises its error for somebody who asked for it.

    Who only waited, and not for long enough, has not seen it. Python 3.11 has no lines to watch:
    there, to ask is enough.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that run with an error are.
    """
    result: Any = frame.f_locals["self"]
    if hasattr(sys, "monitoring") and getattr(result, "_success", None) is not False:
        return False
    handles.asked(handles.of(result))
    return True


def success_read(frame: FrameType, is_successful: bool | None) -> None:
    """Note that somebody learned of the failure of a result by asking whether it succeeded.

    Who asks too early gets an error instead, and has seen nothing.
    """
    if is_successful is False:
        handles.asked(handles.of(frame.f_locals["self"]))


def item_raises(frame: FrameType, _: Any) -> bool:
    """Note that an iterator over the results of a Pool raises the error of an item.

    See `result_raises`. The first item that fails is the first one of which the error is raised.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that run with an error are.
    """
    here = frame.f_locals
    handle = handles.of(here["self"])
    if not hasattr(sys, "monitoring"):
        handles.asked(handle)
    elif here.get("success") is False:
        handles.shown(handle)
        return True
    return False


def result_made(frame: FrameType, _: Any) -> None:
    """Note the result, or the iterator over results, that a Pool is about to return."""
    here = frame.f_locals
    result, pool = here["self"], here.get("pool")
    if handles.of(result) is not None:
        return
    method = frame.f_back
    # The method of the Pool has the function: apply_async, _map_async, imap.
    while (
        method is not None
        and _FUNCTION.isdisjoint(method.f_locals)
        and frames.kind(method) == frames.CARRIER
    ):
        method = method.f_back
    function = arguments = None
    if method is not None and frames.kind(method) == frames.CARRIER:
        of_method = method.f_locals
        function = of_method.get("func", of_method.get("function"))
        arguments = of_method.get("args")
        pool = pool or method.f_locals.get("self")
    executor = places.executor_of(pool) if pool is not None else frames.executor_behind(frame)
    place = places.place(frame.f_back, executor, function, arguments or ())
    owned = returned.reaches_reader(frame.f_back)
    handles.register(result, "result", place, owned=owned)
    if not owned and frames.is_called_for_another(frame.f_back):
        handle = handles.of(result)
        assert handle is not None
        handle.request = messages.loaded()


def result_returned(argument: str) -> monitor.Handler:
    """Make the handler for a method that returns the result of the function in *argument*."""

    def handler(frame: FrameType, result: Any) -> None:
        here = frame.f_locals
        executor = places.executor_of(here["self"])
        place = places.place(frame.f_back, executor, here.get(argument), here.get("args") or ())
        owned = returned.reaches_reader(frame.f_back)
        handles.register(result, "result", place, owned=owned)
        # Quick work may have failed before its result was handed out.
        if getattr(result, "_success", None) is False:
            _result_failed(result, result._value)

    return handler


def result_printed(mark: str) -> monitor.Handler:
    """Make the handler for a result that is a text, with the traceback of its failure after *mark*.

    Who asks for such a result gets the traceback printed.
    """

    def handler(frame: FrameType, _: Any) -> None:
        here = frame.f_locals
        text = bytes(here["sresult"]).decode(errors="replace")
        handle = handles.of(here["self"])
        if handle is not None and mark in text:
            handles.fail(handle, *_last_error(text))

    return handler


def results_collected(attribute: str) -> monitor.Handler:
    """Make the handler for what collects the parts of a result, which has it as *attribute*."""

    def handler(frame: FrameType, _: Any) -> None:
        collector: Any = frame.f_locals["self"]
        parts = [part for batch in collector.results() for part in batch]
        error = next((part for part in parts if events.is_a(part, Exception)), None)
        if error is None:
            return
        handle = handles.with_part(collector, attribute)
        handles.failed(handle, getattr(error, "underlying", error))
        if getattr(collector, "_error_callback", None) is not None:
            handles.asked(handle)

    return handler


def _last_error(text: str) -> tuple[str, str]:
    """Return the name and the message of the exception with which a traceback ends."""
    import re

    for line in reversed(re.sub("\x1b\\[[0-9;]*m", "", text).splitlines()):  # without its colours
        name, _, message = line.partition(": ")
        if name.replace(".", "").isidentifier():
            return name, events.text(message)[:1000]
    return "", ""


def thread_returned(argument: str) -> monitor.Handler:
    """Make the handler for a method that returns the thread of the function in *argument*."""

    def handler(frame: FrameType, thread: Any) -> None:
        here, caller = frame.f_locals, frame.f_back
        executor = places.executor_of(here["self"])
        place = places.place(caller, executor, here.get(argument), here.get("args") or ())
        handles.register(thread, "thread", place, owned=behalf.is_held_by_reader(caller))
        handle, failure = handles.of(thread), _thread_failures.pop(thread, None)
        if handle is not None and failure is not None:
            handles.fail(handle, *failure)

    return handler


def thread_failed(thread: Any, error: BaseException | None) -> None:
    """Note which error ended a thread; a quick one may end before it is returned."""
    handle = handles.of(thread)
    if handle is not None:
        handles.failed(handle, error)
    elif (failure := handles.described(error)) is not None:
        _thread_failures[thread] = failure


def result_set(frame: FrameType, _: Any) -> None:
    """Note the failure of a result of a Pool."""
    here = frame.f_locals
    success, value = (
        here.get("obj") or here.get("success_result") or (here["success"], here["result"])
    )
    if not success:
        _result_failed(here["self"], value)
        sender = frame.f_back
        if sender is not None and _id(sender.f_code) in places.resolvers and sender.f_locals:
            # The thread that sends a task sets its result only where it could not.
            place = handles.place_of(here["self"])
            messages.not_sent(value, sender, sender.f_locals.get("task"), place)


def _result_failed(result: Any, error: Any) -> None:
    handle = handles.of(result)
    # billiard wraps an exception with its traceback.
    handles.failed(handle, getattr(error, "exception", error))
    if getattr(result, "_error_callback", None) is not None:
        handles.asked(handle)


def results_given_up(frame: FrameType, _: Any) -> None:
    """Forget the work of a pool that is about to be terminated, and that tells nobody so."""
    for result in list(frame.f_locals["self"]._cache.values()):
        handles.give_up(result)


def results_raised(frame: FrameType, _: Any) -> None:
    """Note that a pool raises the error of its workers for whoever has its results.

    An error of what a worker does before its first task becomes that of all results, a little
    before this or after it.
    """
    for result in list(frame.f_locals["self"]._cache.values()):
        handles.asked(handles.of(result))


def chunk_done(frame: FrameType, _: Any) -> None:
    """Note the failures in a chunk, whose future has a list of results, for their iterator.

    The page has the iterator, and gets what became of the chunk from there.
    """
    here = frame.f_locals
    whole, chunk = here["map_future"], here["_"]
    items, handle = getattr(whole, "_result", None), handles.of(whole)
    if items is None or handle is None:
        return
    if handles.of(items) is None:
        handles.register(items, "result", handle.place, owned=handle.owned)
    of_chunk = handles.of(chunk)
    if of_chunk is not None:
        of_chunk.owned = False
    error, results = getattr(chunk, "_exception", None), getattr(chunk, "_result", None) or ()
    failed = [(at, one.value) for at, one in enumerate(results) if one.status.name != "SUCCESS"]
    for at, failure in failed if error is None else [(0, error)]:
        handles.failed(handles.of(items), failure, _items_before(whole, chunk) + at)


def _items_before(whole: Any, chunk: Any) -> int:
    """Return how many items come before those of a chunk, or less where that is not known yet.

    All chunks but the last one are as long as the first.
    """
    chunks = whole._futures
    known = _chunks.get(whole)
    if known is None:
        known = _chunks[whole] = {_id(one): at for at, one in enumerate(chunks)}
    lengths = [len(getattr(one, "_result", None) or ()) for one in (chunks[0], chunk)]
    return known.get(_id(chunk), 0) * max(lengths)


def item_set(frame: FrameType, _: Any) -> None:
    """Note the failure of one item of an iterator over the results of a Pool."""
    here = frame.f_locals
    handle = handles.of(here["self"])
    if handle is not None:
        success, value = here["obj"]
        ordered = frame.f_code.co_qualname.startswith("IMapIterator")
        index = here["i"] if ordered and type(here["i"]) is int else handle.count
        handle.count += 1
        if not success:
            handles.failed(handle, value, index)


def batch_made(frame: FrameType, _: Any) -> None:
    """Note a batch of tasks of joblib; the page holds it where it holds the generator."""
    batch: Any = frame.f_locals["self"]
    parallel = frame.f_locals.get("parallel")
    caller = frame.f_back
    if getattr(parallel, "return_generator", False) and caller is not None:
        function = naming.first_of_batch(caller.f_locals.get("batch"))
        place = places.place(caller, "joblib.Parallel", function)
        handles.register(batch, "result", place, owned=True, call=_call_of_parallel(parallel))


def _call_of_parallel(parallel: Any) -> handles.Call:
    known = handles.of(parallel)
    if known is None:
        handles.register(parallel, "result", 0, owned=False, call=handles.Call())
        known = handles.of(parallel)
    assert known is not None
    assert known.call is not None
    return known.call


def batch_done(frame: FrameType, _: Any) -> None:
    """Note the failure of a batch of joblib."""
    here = frame.f_locals
    outcome = here.get("outcome")
    if isinstance(outcome, dict):
        handles.failed(handles.of(here["self"]), outcome.get("result"))
