"""The handles of work: futures, results, tasks and processes, each with its place.

A piece of work is known by the handle that its executor returned, from the moment it is handed
out. A failure that the page could see, because it holds the handle or held it, and that nobody
asked for until the end of the process, is told then.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import sys
from weakref import ref as _reference

from workercheck.recorder import events, messages, places, this_process

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any

    Work = tuple[str, int, bool, "Call | None", int]
    """What many handles have in common: the parameters of a `Handle` but the first."""

_id = events.identity


class Handle:
    """What is known of a piece of work, by the handle that its executor returned.

    Parameters
    ----------
    thing
        A weak reference to the future, result, task or process.
    what
        ``future``, ``collection`` of futures, ``result``, ``task`` or ``process``; ``whole``, which
        stands for all handles of its call, and of which nothing is told.
    place
        Where the work was handed out.
    owned
        Whether the reader's own code holds the handle, or held it.
    call
        What the handles of one call share: with one error of them raised, the others are seen.
    message
        On whose behalf a worker handed it out: the fingerprint of what it worked on, 0 elsewhere.
    """

    asked = 0
    """How often somebody asked for the outcome."""
    count = 0
    """How many outcomes have come, for an iterator."""
    index = 0
    """Which of them is the failure: it is seen when that many were asked for."""
    failure: tuple[str, str] | None = None
    """Name of the exception, empty for an exit code, and its message."""
    child: int | None = None
    """The pid, for a process."""
    made_by: CodeType | None = None
    """The function, called by the reader, in which a library made it to stand for another one.

    The library passes failures on to it, and perhaps from it."""
    request = 0
    """The message with which another process asked for the work, and got a proxy of the handle."""

    def __init__(
        self,
        thing: Callable[[], Any],
        what: str,
        place: int,
        owned: bool,
        call: Call | None,
        message: int,
    ) -> None:
        self.thing = thing
        self.what = what
        self.place = place
        self.owned = owned
        self.call = call
        self.message = message

    @property
    def place_within(self) -> int:
        """The number of the place, and of the message on whose behalf the work was handed out."""
        return places.within(self.place, self.message)


class Call:
    """One call that handed out several pieces of work: `Executor.map`, `asyncio.gather`."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = False


WHOLE = "whole"

_noted: dict[int, tuple[Callable[[], Any], Work]] = {}
"""What a `Handle` is made of once it is asked for, as few ever are.

By the id of the handle, or of what stands for it; entries of what has gone are swept.
"""
_handles: dict[int, Handle] = {}
"""Those that were asked for."""
_fresh: tuple[list[Callable[[], Any]], Work | None] = ([], None)
"""Weak references to handles of one statement, and what these have in common.

A list is the cheapest way to note a handle; `_noted` gets them when it is next looked into.
"""
_SWEEP = 20_000
_next_sweep = _SWEEP
untold: list[Handle] = []
"""Of work that failed, and about which nothing has been written."""
_seen_errors: set[tuple[int, str]] = set()
"""Place and exception of failures that somebody looked at: their siblings are seen with them."""

_seen_failures: set[tuple[str, str]] = set()
"""Exceptions at which somebody looked, with what they say."""

_BROKEN = ("BrokenExecutor", "ShutdownExecutorError", "CancelledError")
"""Errors that only follow from the end of an executor, by the name of a class or of its base."""
_BROKEN_BY_INITIALIZER = ("BrokenThreadPool",)
"""Those of executors of which no process ends, so that nothing else is told."""


def register(
    thing: Any, what: str, place: int, *, owned: bool, call: Call | None = None, key: Any = None
) -> None:
    """Note a handle and the place of its work.

    Parameters
    ----------
    thing
        The handle that the executor returned; it is not kept alive.
    what
        ``future``, ``result``, ``task`` or ``process``.
    place
        Where the work was handed out.
    owned
        Whether the reader's own code gets the handle.
    call
        What it shares with the other handles of one call.
    key
        An object that stands for the handle where it is told of a failure.
    """
    note(thing, (what, place, owned, call, messages.loaded()), key)


def note(thing: Any, work: Work, key: Any = None) -> None:
    """Note a handle of work that is described already, as `register`."""
    _noted[_id(thing if key is None else key)] = _reference(thing), work
    if len(_noted) > _next_sweep:
        _sweep()


def take(references: list[Callable[[], Any]], work: Work) -> None:
    """Note the handles that a list of weak references has, and gets until the next call."""
    global _fresh
    former, _fresh = _fresh, (references, work)
    _sort_in(*former)


def sort_in() -> None:
    """Have each handle of that list found by its id, and forget those that are gone."""
    _sort_in(*_fresh)


def _sort_in(references: list[Callable[[], Any]], work: Work | None) -> None:
    some = references[:]
    # Other threads may have added more meanwhile.
    del references[: len(some)]
    for reference in some:
        thing = reference()
        if thing is not None and work is not None:
            note(thing, work)


def _sweep() -> None:
    global _next_sweep
    for number in [number for number, noted in list(_noted.items()) if noted[0]() is None]:
        _noted.pop(number, None)
        _handles.pop(number, None)
    _next_sweep = len(_noted) + _SWEEP


def of(thing: Any) -> Handle | None:
    """Return the handle of an object, None where it is not known."""
    noted = _look_up(thing)
    # Another object may have got the id since.
    return _handle(_id(thing)) if noted is not None and noted[0]() is thing else None


def of_key(key: Any) -> Handle | None:
    """Return the handle for which an object stands, None where it is not known."""
    noted = _look_up(key)
    return _handle(_id(key)) if noted is not None and noted[0]() is not None else None


def with_part(part: Any, attribute: str) -> Handle | None:
    """Return the handle of the object that has a part as an attribute, None where none has."""
    for noted in _all():
        thing = noted[0]()
        if thing is not None and getattr(thing, "__dict__", {}).get(attribute) is part:
            return of(thing)
    return None


def _look_up(key: Any) -> tuple[Callable[[], Any], Work] | None:
    if _fresh[0]:
        sort_in()
    return _noted.get(_id(key))


def _all() -> list[tuple[Callable[[], Any], Work]]:
    sort_in()
    return list(_noted.values())


def _handle(number: int) -> Handle:
    handle, noted = _handles.get(number), _noted[number]
    if handle is None or handle.thing is not noted[0]:
        handle = _handles[number] = Handle(noted[0], *noted[1])
    return handle


def place_of(thing: Any) -> int:
    """Return the place of the work behind an object, 0 where it is not known."""
    noted = _look_up(thing)
    return noted[1][1] if noted is not None and noted[0]() is thing else 0


def under_way() -> list[Callable[[], Any]]:
    """Return weak references to the futures and results of the reader's that have no outcome."""
    return [
        thing
        for thing, (what, _, owned, *_) in _all()
        if owned and what in ("future", "result") and has_no_outcome(thing())
    ]


def give_up(thing: Any) -> None:
    """Forget work that will not be done any more, unless it has an outcome."""
    noted = _look_up(thing)
    if noted is not None and noted[0]() is thing and has_no_outcome(thing):
        del _noted[_id(thing)]


def has_no_outcome(thing: Any) -> bool:
    """Tell whether work is under way, by its handle; nobody has asked for its outcome by that."""
    try:
        state = getattr(thing, "_state", None)
        state = getattr(state, "status", state)  # Dask keeps it in an object
        if isinstance(state, str):  # pebble has an enumeration of strings
            return state.lower() in ("pending", "running")
        is_ready = getattr(thing, "ready", None)
        return is_ready is not None and not is_ready()
    except Exception:  # of a library whose pool is gone
        return False


def processes() -> Iterator[Handle]:
    """Return the handles of processes."""
    return (_handle(number) for number, (_, work) in list(_noted.items()) if work[0] == "process")


def failed(handle: Handle | None, error: Any, index: int = 0) -> None:
    """Note that a piece of work failed; of an iterator, its first outcome that is a failure."""
    if handle is None:
        return
    if handle.failure is not None:
        if index < handle.index:
            handle.index = index
            if handle.asked > index:
                _see(handle)
        return
    failure = described(error)
    if failure is not None:
        handle.index = index
        fail(handle, *failure)


def described(error: Any) -> tuple[str, str] | None:
    """Return the name of an exception and its message, None where it is no failure of its own."""
    if not events.is_a(error, BaseException):
        return None
    names = [cls.__name__ for cls in type(error).__mro__]
    if not set(_BROKEN).isdisjoint(names) and names[0] not in _BROKEN_BY_INITIALIZER:
        return None
    return events.qualified(type(error)) or "", events.message_of(error)


def exited(handle: Handle | None, exitcode: int, child: int) -> None:
    """Note that a process exited with an error by itself."""
    if handle is not None and handle.failure is None and exitcode > 0:
        handle.child = child
        fail(handle, "", f"exit code {exitcode}")


def fail(handle: Handle, exception: str, message: str) -> None:
    """Note that a piece of work failed, by the name of the exception and its message."""
    handle.failure = (exception, message)
    if handle.asked > handle.index:
        _see(handle)
    elif handle.request:  # this process may be ended with the one that holds the proxy
        write(handle.what, handle.place_within, exception, message, 1, request=handle.request)
    else:
        untold.append(handle)


def asked(handle: Handle | None) -> None:
    """Note that somebody asked for an outcome."""
    if handle is not None:
        handle.asked += 1
        if handle.what == WHOLE and handle.call is not None:
            handle.call.seen = True
        if handle.failure is not None and handle.asked > handle.index:
            _see(handle)


def passed_on(handle: Handle) -> None:
    """Note that a library looked at work that it handed out, and has the failure pass for its own.

    Somebody has to look at what it makes of it.
    """
    handle.asked += 1
    if handle.failure is not None and handle.call is not None:
        handle.call.seen = True


def lost(error: BaseException | None) -> None:
    """Note that who asked for an outcome ended of its failure, so that nobody has seen it."""
    for handle in list(_handles.values()):
        thing, failure = handle.thing(), handle.failure
        if failure is None or error is None:
            continue
        if error is getattr(thing, "_exception", None) or error is getattr(thing, "_value", None):
            handle.asked = handle.index
            _seen_errors.discard((handle.place, failure[0]))
            if handle.call is not None:
                handle.call.seen = False
            if handle not in untold:
                untold.append(handle)


def shown(handle: Handle | None) -> None:
    """Note that the failure of a piece of work, if there is one, was shown to somebody."""
    if handle is not None and handle.failure is not None:
        handle.asked = handle.index + 1
        _see(handle)


def tell_gone() -> None:
    """Tell, as `tell`, but only of work whose handle is gone, so that nobody can ask any more."""
    _tell([handle for handle in untold if handle.thing() is None])


def tell() -> None:
    """Write an event for each place and each error that nobody looked at."""
    _tell(untold.copy())


def _tell(failed: list[Handle]) -> None:
    unseen: dict[tuple[int, int, str], list[Handle]] = {}
    held = _held_by_page() if any(not handle.owned for handle in failed) else frozenset()
    is_ended = _is_program_ended_by_work()
    for handle in failed:
        failure = handle.failure
        if (
            failure is None
            or handle.what == WHOLE
            or not (handle.owned or _id(handle.thing()) in held)
            or handle.asked > handle.index
            or (handle.call is not None and handle.call.seen)
            or (handle.place, failure[0]) in _seen_errors
            # What is computed of a collection passes its failure on.
            or (
                (handle.what == "collection" or handle.made_by is not None)
                and failure in _seen_failures
            )
            or (is_ended and handle.thing() is not None)
        ):
            continue
        unseen.setdefault((handle.place, handle.message, failure[0]), []).append(handle)
    for handles in unseen.values():
        first = handles[0]
        assert first.failure is not None
        write(first.what, first.place_within, *first.failure, len(handles), first.child)
    for handle in failed:
        untold.remove(handle)


def _is_program_ended_by_work() -> bool:
    """Tell whether the failure of a piece of work, as it was raised, has ended this program.

    Then nobody could ask for what else the program still holds.
    """
    error = getattr(sys, "last_exc" if sys.version_info >= (3, 12) else "last_value", None)
    trace = error.__traceback__ if isinstance(error, BaseException) else None
    # An error of a cell or of a test is caught by what runs it.
    if error is None or trace is None or trace.tb_frame.f_back is not None:
        return False
    # A kernel has such an error of one of its threads, and goes on.
    if not this_process.is_program():
        return False
    return described(error) in _seen_failures


def _held_by_page() -> frozenset[int]:
    """Return the ids of what the names of the page, script or console stand for.

    That is how a handle is the reader's which a library between the two has passed on.
    """
    found = set()
    for value in list(vars(sys.modules["__main__"]).values()):
        found.add(_id(value))
        if type(value) is dict:
            found.update(map(_id, list(value.values())))
        elif type(value) in (list, tuple, set):
            found.update(map(_id, list(value)))
    return frozenset(found) - {_id(None)}


def write(
    what: str,
    place: int,
    exception: str,
    message: str,
    count: int,
    child: int | None = None,
    request: int = 0,
) -> None:
    """Write the event about failures that nobody looked at."""
    events.write(
        "unseen",
        what=what,
        place=place,
        exception=exception or None,
        message=message,
        count=count,
        child=child,
        request=request,
    )


def forget() -> None:
    """Begin anew in a forked child."""
    global _fresh
    _fresh = ([], None)
    _noted.clear()
    _handles.clear()
    untold.clear()
    _seen_errors.clear()
    _seen_failures.clear()


def _see(handle: Handle) -> None:
    assert handle.failure is not None
    _seen_errors.add((handle.place, handle.failure[0]))
    _seen_failures.add(handle.failure)
    if handle.call is not None:
        handle.call.seen = True
    if handle.request:
        events.write("seen", request=handle.request, child=None, exception=None, message="")
