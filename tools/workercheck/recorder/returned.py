"""What an installed library returns to the reader's code, from a function that hands work out.

The handle of that work is the reader's where it is returned, alone, in a collection, or within a
future that stands for it: the page had it, whether or not it gave it a name. What the library
returns to nobody is its own affair.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import sys

from workercheck.recorder import behalf, events, frames, handles, monitor

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, FrameType
    from typing import Any

_id = events.identity

_watched: dict[int, CodeType] = {}
"""By id: the functions of libraries whose return is watched."""
_COLLECTIONS = (list, tuple, set, frozenset)


def reaches_reader(frame: FrameType | None) -> bool:
    """Tell whether what a function returns to *frame* reaches the reader's own code.

    Where it reaches an installed library that the reader's code called, only what that library
    returns can tell: it is looked at then.
    """
    if behalf.is_held_by_reader(frame):
        return True
    called = frames.called_by_reader(frames.caller_of_library(frame))
    # Python 3.11 cannot watch a function that is known by its frame alone.
    if called is not None and frames.is_installed(called) and hasattr(sys, "monitoring"):
        code = called.f_code
        if _id(code) not in _watched:
            _watched[_id(code)] = code
            monitor.observe(code, "return", _library_returns)
    return False


def _library_returns(frame: FrameType, value: Any) -> None:
    caller = frame.f_back
    if caller is None or frames.kind(caller) != frames.READER:
        return
    for thing in _futures_of(value):
        handle = handles.of(thing)
        # One that the library made itself is known as its own, which it may look at as well.
        if handle is not None and handle.made_by is None:
            handle.owned = True


def _futures_of(value: Any) -> Iterable[Any]:
    """Return what may be the handle of work: a value, its elements, or what a proxy stands for."""
    if type(value) in _COLLECTIONS:
        return list(value)
    if type(value) is dict:
        return list(value.values())
    base: Any = sys.modules.get("concurrent.futures._base")
    attributes = events.attribute(value, "__dict__")
    if base is not None and events.is_a(value, base.Future) and type(attributes) is dict:
        return [value, *attributes.values()]
    return [value]
