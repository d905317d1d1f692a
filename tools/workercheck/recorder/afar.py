"""Work of which only the process that did it learns that it failed, as with Ray.

Who hands such work out gets a reference, and learns nothing until it asks. Each end notes the name
that the library gives the work: it has a fingerprint, as a message has, by which the judge joins
what the ends say.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import sys

from workercheck.recorder import behalf, events, frames, handles, messages, places, this_process

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from workercheck.recorder import monitor

_seen: set[int] = set()
_lost: set[int] = set()


def submitted(words: str) -> monitor.Handler:
    """Make the handler for a method that returns a reference, or a list of them.

    Parameters
    ----------
    words
        Where the function is, a dash where nothing has it; where the reference has the name of
        the work; the option with which failed work is tried again, and may yet succeed.
    """
    function, name, option = words.split()

    def handler(frame: FrameType, value: Any) -> None:
        here = frame.f_locals
        first = value[0] if type(value) is list and value else value
        number = _fingerprint(_find(first, name))
        repeats = here.get(option) or here.get("task_options", {}).get(option)
        if number and not repeats and behalf.is_held_by_reader(frame.f_back):
            executor = str(frame.f_globals["__name__"])
            place = places.place(frame.f_back, executor, _find_in(here, function))
            messages.note(number, place)

    return handler


def failed(words: str) -> monitor.Handler:
    """Make the handler for what a worker makes of the error of the work that it did.

    Parameters
    ----------
    words
        The variable with the error; the module that knows the work, and where it has its name.
    """
    variable, module, name = words.split()

    def handler(frame: FrameType, _: Any) -> None:
        caller, error = frame.f_back, frame.f_locals.get(variable)
        # A message with the error of other work is loaded by the recorder's wrapper.
        is_loaded = caller is not None and frames.kind(caller) == frames.OWN
        if is_loaded or not this_process.is_worker() or not frames.is_machinery(caller):
            return
        number = _fingerprint(_find(sys.modules.get(module), name))
        if number and isinstance(error, BaseException):
            exception = events.qualified(type(error)) or ""
            handles.write("remote task", 0, exception, events.message_of(error), 1, request=number)

    return handler


def looked_at(words: str) -> monitor.Handler:
    """Make the handler for what returns the outcome of work to who asked for it.

    Work that another one needs passes its failure on: who asks for that one sees both.

    Parameters
    ----------
    words
        Where the name of the work is, from a variable on, and that of the work which made what
        did it; where the outcome has the pid of the process that did the work, and the error.
    """
    name, origin, pid, cause = words.split()

    def handler(frame: FrameType, outcome: Any) -> None:
        number = _fingerprint(_find_in(frame.f_locals, name))
        if number and events.is_a(outcome, BaseException) and number not in _seen:
            _seen.add(number)
            error = _find(outcome, cause)
            exception, message = events.qualified(type(error)), events.message_of(error)
            fields = {"exception": exception, "message": message}
            events.write("seen", request=number, child=_find(outcome, pid) or 0, **fields)
            made = _fingerprint(_find_in(frame.f_locals, origin))
            if made:
                events.write("seen", request=made, child=0, **fields)

    return handler


def died(words: str) -> monitor.Handler:
    """Make the handler for what returns the outcome of work that may be that its worker died.

    Parameters
    ----------
    words
        Where the name of the work is, from a variable on; the names of errors that say so, or
        what such an error says.
    """
    name, *marks = words.split()

    def handler(frame: FrameType, outcome: Any) -> None:
        number = _fingerprint(_find_in(frame.f_locals, name))
        if number and events.is_a(outcome, BaseException) and number not in _lost:
            said = f"{type(outcome).__name__}: {events.message_of(outcome)}"
            if any(mark in said for mark in marks):
                _lost.add(number)
                fields = {"is_loading": False, "fingerprint": number, "globals": []}
                events.write("ended-at-work", child=0, **fields)

    return handler


def _find_in(variables: dict[str, Any], path: str) -> Any:
    first, _, rest = path.partition(".")
    return _find(variables.get(first), rest)


def _find(thing: Any, path: str) -> Any:
    """Follow attributes, and call methods: those that have parentheses, with a word or nothing."""
    for step in filter(None, path.split(".")):
        name, is_call, word = step.removesuffix(")").partition("(")
        thing = getattr(thing, name, None)
        if is_call and thing is not None:
            thing = thing(word) if word else thing()
    return thing


def _fingerprint(name: Any) -> int:
    return messages.fingerprint(name.encode() if type(name) is str else None)


def forget() -> None:
    """Begin anew in a forked child."""
    _seen.clear()
    _lost.clear()
