"""Where in the reader's own code work was handed out, and on whose behalf.

A place is a line of the reader's code, a cell and an executor. It is written once, and numbered:
what happens to a piece of work later names its place by the number. Everything that is computed
here is kept by code object and instruction, so that the ten thousandth task costs no more than a
look into a dictionary.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

from _thread import get_ident as _get_ident

from workercheck.libraries import MODULES, RESULT_READERS
from workercheck.recorder import behalf, directives, events, frames, naming, sources, this_process

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Resolver = Callable[[FrameType, Any], int]
    """Finds the place of an object that a function of a library is about to send."""

_id = events.identity

_LIMIT = 20_000
_places: dict[tuple[Any, ...], int] = {}
_within: dict[tuple[int, int], int] = {}
"""By a place and a message on whose behalf work was handed out there: the number of both."""
_kept: list[Any] = []
"""What has its id in the keys of places, so that nothing else gets the same id."""
_sent_from: dict[tuple[Any, ...], int] = {}
"""By reader's code, instruction, function of a library and cell: the place of what is sent."""
_executors: dict[type, str] = {}
_count = 0
resolvers: dict[int, Resolver] = {}


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
    reader = frames.reader_of(frame)
    here = behalf.on_behalf(frame)
    what, kept = naming.sign_of(function, args)
    directive = None
    key: Any
    if reader is not None:
        key = (_id(reader.f_code), reader.f_lasti, here, executor, what)
    else:
        directive = directives.position(frame) or behalf.given_at(frame)
        key = (directive, here, executor, what)
    number = _places.get(key)
    if number is None:
        if _count >= _LIMIT:  # a page that makes a new function for each task
            key = (here, executor)
            if (number := _places.get(key)) is not None:
                return number
        _count += 1
        number = _places[key] = _count
        behalf.cells[number] = here
        _kept.append((reader and reader.f_code, kept))
        if reader is not None:
            file, line, text = sources.position(reader)
            whole = "" if text else sources.whole_text(file, reader)
        else:
            file, line, text, whole = *(directive or ("", 0)), "", ""
        if reader is not None and reader is frames.outside_asyncio(frame):
            behalf.positions[number] = file, line
        events.write(
            "place",
            id=number,
            file=events.text(file)[:500],
            line=line,
            text=events.text(text)[:500],
            whole=events.text(whole),
            cell=here if this_process.runs_kernel() else None,
            number=behalf.number_of_cell(reader),
            test=events.text(behalf.test())[:500] or None,
            executor=executor,
            through=frames.library_behind(frame),
            names=naming.names_of(function, args)[: naming.MOST] if function is not None else [],
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
    if frames.answers_in_loop(frame):
        return 0, True
    asks = False
    while frame is not None:
        resolve = resolvers.get(_id(frame.f_code))
        if resolve is not None:
            return resolve(frame, thing), False
        what = frames.kind(frame)
        if what == frames.READER:
            assert first is not None
            key = (_id(frame.f_code), frame.f_lasti, _id(first.f_code), behalf.on_behalf(frame))
            number = _sent_from.get(key)
            if number is None:
                number = place(frame, frames.executor_behind(first), None)
                _kept.append(first.f_code)
                if len(_sent_from) < _LIMIT:
                    _sent_from[key] = number
            return number, False
        if what == frames.END:
            break
        asks = asks or frame.f_code.co_name in RESULT_READERS
        frame = frame.f_back
    if not this_process.runs_kernel():
        return 0, not asks and (this_process.is_worker() or this_process.is_inner())
    if _get_ident() != behalf.main_thread:
        return 0, False  # a library's own thread, which serves every cell
    return place(first, frames.executor_behind(first)), False


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


def forget() -> None:
    """Begin anew in a forked child: its places are its own."""
    global _count
    _places.clear()
    _within.clear()
    _sent_from.clear()
    _count = 0
