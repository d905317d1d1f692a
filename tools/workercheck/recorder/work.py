"""Work that is handed to executors: where, and what became of it.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import sys
import time
import weakref

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
)

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

_id = events.identity

_call: handles.Call | None = None
"""Of the `Executor.map`, or the like, that hands work out now."""
_mapper: CodeType | None = None
"""The code of that function."""
_mapped: Any = None
"""The function that it maps, where it does not hand it out as it is."""
_DEPTH = 12
"""How many functions may lie between that function and what hands out each piece."""
# Kept from before a test suite or a page can replace it.
_sleep = time.sleep
_PAUSE = 0.0005
_TRIES = 400
_patience = 3

_submissions: dict[tuple[Any, ...], tuple[handles.Work, Any]] = {}
"""By the reader's code, instruction, cell, handler and function: the work, and what keeps the
function's id its own."""
_LIMIT = 20_000
_chunks: weakref.WeakKeyDictionary[Any, dict[int, int]] = weakref.WeakKeyDictionary()
"""By the future of a whole map: at which place each of its chunks is, by the chunk's id."""

_thread_failures: weakref.WeakKeyDictionary[Any, tuple[str, str]] = weakref.WeakKeyDictionary()
"""Name and message of the error that ended a thread: the error would keep the page's objects."""
_put: dict[int, int] = {}
"""By the id of an object that waits in a queue, which keeps it alive: its place."""
_answers: dict[int, int] = {}
"""By the id of an object that a worker's loop has put into a queue: what the object answers."""
_doomed: dict[int, tuple[dict[int, Any], dict[int, int]]] = {}
"""By the id of a broken executor's tasks: those, which keeps the id theirs, and their places."""


def submitted(argument: str) -> monitor.Handler:
    """Make the handler for a method that returns the future of the function in *argument*."""

    def handler(frame: FrameType, future: Any) -> None:
        work = work_of(frame, future, argument, handler)
        if work is not None:
            handles.note(future, work)
            # Quick work may have failed before its future was handed out.
            error = getattr(future, "_exception", None)
            if error is not None:
                handles.failed(handles.of(future), error)

    return handler


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
    call = _call_of(caller) if _call is not None else None
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
    else:
        executor = (
            places.executor_of(here["self"]) if "self" in here else frames.executor_behind(frame)
        )
        place = places.place(caller, executor, function, here.get("args") or ())
        work = "future", place, behalf.is_held_by_reader(caller), None, messages.loaded()
        # What calls from a library may be called from anywhere.
        if caller is not None and frames.is_reader(caller) and len(_submissions) < _LIMIT:
            _submissions[key] = work, kept
    call = call or work[3]
    if call is not work[3] or work[4] != messages.loaded():
        work = *work[:3], call, messages.loaded()
    return work


def current_call() -> handles.Call | None:
    """Return the `Executor.map`, or the like, that hands work out now, None where none does."""
    return _call


def _sibling(caller: FrameType | None) -> handles.Handle | None:
    """Return the handle of other work of an `Executor.map` that hands more out as it is read."""
    if caller is None or caller.f_code.co_name != "result_iterator":
        return None
    return handles.of(next(iter(caller.f_locals.get("fs") or ()), None))


def _call_of(caller: FrameType | None) -> handles.Call | None:
    for _ in range(_DEPTH):
        if caller is None:
            break
        if caller.f_code is _mapper:
            return _call
        caller = caller.f_back
    return None


def map_begins(frame: FrameType, _: Any) -> None:
    """Note that the futures of one `Executor.map` follow."""
    global _call, _mapper
    _call, _mapper = handles.Call(), frame.f_code


def map_of_begins(attribute: str) -> monitor.Handler:
    """Make the handler for an object that maps the function in *attribute*."""

    def handler(frame: FrameType, _: Any) -> None:
        global _mapped
        map_begins(frame, None)
        _mapped = getattr(frame.f_locals["self"], attribute, None)

    return handler


def map_ends(_frame: FrameType, _: Any) -> None:
    """Note that they have all been made."""
    global _call, _mapper, _mapped
    _call = _mapper = _mapped = None


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
    handles.asked(handles.of(future))
    return True


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


def was_asked(frame: FrameType, _: Any) -> None:
    """Note that somebody asks for the outcome of a piece of work."""
    handles.asked(handles.of(frame.f_locals["self"]))


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


# --- Pool -----------------------------------------------------------------------------------------


_FUNCTION = frozenset(("func", "function"))
"""What the methods of pools call the function that is to run."""


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
    owned = behalf.is_held_by_reader(frame.f_back)
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
        owned = behalf.is_held_by_reader(frame.f_back)
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


def _local(frame: FrameType, name: str) -> Any:
    """Return a local variable of a function that runs for as long as its thread."""
    here = frame.f_locals
    value = here.get(name)
    if type(here) is dict:  # before Python 3.13 a copy, which would keep the other variables
        here.clear()
    return value


def pool_task(frame: FrameType, task: Any) -> int:
    """Return the place of a task that the thread of a Pool sends."""
    cache = _local(frame, "cache")
    if not (cache and task):
        return 0
    numbers = task[1] if type(task[1]) is tuple else task  # billiard says first that it is a task
    return handles.place_of(cache.get(numbers[0]))


# --- queues ---------------------------------------------------------------------------------------


def object_put(frame: FrameType, _: Any) -> None:
    """Note the place of an object that the thread of a queue will send later."""
    caller, number = frame.f_back, _id(frame.f_locals["obj"])
    if caller is None:
        return
    if frames.is_machinery(caller):
        _put.pop(number, None)
        _answers[number] = messages.loaded()
    else:
        _put[number] = places.place(caller, frames.executor_behind(frame))


def place_of_running(future: Any) -> int:
    """Return the place of a future whose work has begun, though `submit` may not have returned."""
    return handles.place_of(future) or _wait_for_place(future)


def queued_object(frame: FrameType, thing: Any) -> int:
    """Return the place of an object that the thread of a queue sends."""
    number = getattr(thing, "work_id", None)
    if number is not None:
        queue = getattr(_local(frame, "onerror"), "__self__", None)
        items = getattr(queue, "pending_work_items", None)
        if items is not None:
            future = getattr(items.get(number), "future", None)
            if future is None:
                return _place_of_doomed(items, number)
            return place_of_running(future)
    messages.answers(_answers.pop(_id(thing), 0))
    return _put.pop(_id(thing), 0)


def _place_of_doomed(items: dict[int, Any], number: int) -> int:
    known = _doomed.get(_id(items))
    return known[1].get(number, 0) if known is not None else 0


def doomed_places(items: dict[int, Any]) -> list[int]:
    """Return the places of the tasks of an executor that breaks, and remember them.

    The executor forgets its tasks now, while the thread of its queue may still send one of them.

    Parameters
    ----------
    items
        The executor's tasks, by number.

    Returns
    -------
    list of int
        Each place once, 0 for those that are not known.
    """
    doomed = {
        number: handles.of(getattr(item, "future", None)) for number, item in list(items.items())
    }
    known = {number: handle.place for number, handle in doomed.items() if handle is not None}
    _doomed[_id(items)] = items, known
    return list(dict.fromkeys(handle.place_within if handle else 0 for handle in doomed.values()))


def future_among(path: str) -> places.Resolver:
    """Make what returns the place of the future at *path*: a local variable, or what it has."""
    variable, _, attribute = path.partition(".")

    def resolver(frame: FrameType, _: Any) -> int:
        found = _local(frame, variable)
        return place_of_running(getattr(found, attribute, None) if attribute else found)

    return resolver


def _wait_for_place(future: Any) -> int:
    """Wait for `submit` to return: the thread that sends may be quicker than that."""
    global _patience
    if future is None or not _patience:
        return 0
    for _ in range(_TRIES):
        _sleep(_PAUSE)
        place = handles.place_of(future)
        if place:
            return place
    _patience -= 1  # an executor whose `submit` nobody watches
    return 0


# --- joblib ---------------------------------------------------------------------------------------


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


def forget() -> None:
    """Begin anew in a forked child."""
    map_ends(sys._getframe(), None)
    _put.clear()
    _answers.clear()
    _doomed.clear()
    _submissions.clear()


behalf.place_of_future = place_of_running
