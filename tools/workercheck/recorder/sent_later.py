"""What a library sends later, from a thread of its own: where its work was handed out.

The thread serves all cells, and its stack tells nothing of the code that handed the work out.
"""

from __future__ import annotations

import time

from workercheck.recorder import behalf, events, frames, handles, messages, places

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_id = events.identity

# Kept from before a test suite or a page can replace it.
_sleep = time.sleep
_PAUSE = 0.0005
_TRIES = 400
_patience = 3
_put: dict[int, int] = {}
"""By the id of an object that waits in a queue, which keeps it alive: its place."""
_answers: dict[int, int] = {}
"""By the id of an object that a worker's loop has put into a queue: what the object answers."""
_doomed: dict[int, tuple[dict[int, Any], dict[int, int]]] = {}
"""By the id of a broken executor's tasks: those, which keeps the id theirs, and their places."""


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
    return place_of_running(cache.get(numbers[0]))


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
    """Return the place of a future or a result whose work has begun.

    The call that hands it out may not have returned.
    """
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
    futures = {number: getattr(item, "future", None) for number, item in list(items.items())}
    for future in futures.values():
        place_of_running(future)  # `submit` may have to return before it has a handle
    doomed = {number: handles.of(future) for number, future in futures.items()}
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


def forget() -> None:
    """Begin anew in a forked child."""
    _put.clear()
    _answers.clear()
    _doomed.clear()


behalf.place_of_future = place_of_running
