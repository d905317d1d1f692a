"""What a piece of work is known by: the names of its function, and a sign for use in keys.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import sys
import weakref

from workercheck.libraries import BATCHES, MODULES
from workercheck.recorder import events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from typing import Any

_id = events.identity

MOST = 12
"""Of a function and those that it holds, as many as are told."""
_LIMIT = 20_000
_Code, _Builtin, _Module = type((lambda: 0).__code__), type(len), type(sys)
_modules: dict[str, str] = {}
"""By the file of its code: the module of a function."""

_signs: dict[int, tuple[weakref.ref[Any], tuple[Any, Any]]] = {}
"""By the id of a function: itself, while it lives, and what it is known by."""


def sign_of(function: Any, args: Any = ()) -> tuple[Any, Any]:
    """Return what a function is known by in keys, and what has to be kept for that.

    Parameters
    ----------
    function, args
        The work.

    Returns
    -------
    sign : int or tuple of str
        The id of the code of a function of Python, or of a function of a module that is written in
        C; for anything else, which may be made for one task and hold large data, its names.
    kept : object
        What has the id, so that nothing else gets it. It holds no object of the page.
    """
    known = _signs.get(_id(function))
    if known is not None and known[0]() is function:
        return known[1]
    code = events.attribute(function, "__code__")
    owner: Any = getattr(function, "__self__", None) if type(function) is _Builtin else None
    if type(code) is _Code:
        sign = _id(code), code
    elif function is None or type(owner) is _Module:
        sign = _id(function), function
    else:
        return tuple(names_of(function, args)[:MOST]), None
    if function is not None and len(_signs) < _LIMIT:
        try:
            _signs[_id(function)] = weakref.ref(function), sign
        except TypeError:  # a class of the reader's that has a code, but no weak references
            pass
    return sign


def names_of(function: Any, arguments: Any = (), depth: int = 3) -> list[str]:
    """Name a function, those that it wraps, and those among its arguments."""
    if _is_coroutine(function):
        frame = function.cr_frame  # None once it has run to its end, as a quick one may have
        name = frame.f_globals.get("__name__", "") if frame is not None else None
        return [f"{_module_of(function.cr_code) if name is None else name}.{function.__qualname__}"]
    names = [events.qualified(function) or events.qualified(type(function)) or ""]
    inner: list[Any] = []
    # Only what is known to be plain is looked into: an object of the page may run code when asked
    # for an attribute.
    if type(function) is getattr(sys.modules.get("functools"), "partial", None):
        inner = [function.func, *function.args[:6]]
    elif type(function).__name__ in ("function", "_lru_cache_wrapper"):
        inner = [function.__dict__.get("__wrapped__")]
        if str(function.__module__).startswith(MODULES):  # made by a library around the reader's
            inner += _closed_over(function)
    elif (task := first_of_batch(function)) is not None:
        inner = [task]
    arguments = arguments if type(arguments) in (tuple, list) else ()
    for thing in [*inner, *arguments[:6]]:
        if depth and (callable(thing) or _is_coroutine(thing)):
            names += names_of(thing, (), depth - 1)
    return names


def _is_coroutine(thing: Any) -> bool:
    """Tell whether an object is a coroutine of Python; one of Cython may have no code."""
    return type(thing).__name__ == "coroutine" and type(events.attribute(thing, "cr_code")) is _Code


def _module_of(code: Any) -> str:
    """Return the module of a function, by the file of its code; a file of no module is a cell's."""
    file = code.co_filename
    if file not in _modules:
        _modules[file] = next(
            (
                name
                for name, module in list(sys.modules.items())
                if events.attribute(module, "__file__") == file
            ),
            "__main__",
        )
    return _modules[file]


def _closed_over(function: Any) -> list[Any]:
    try:
        return [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    except ValueError:  # of a name that has no value yet
        return []


def first_of_batch(thing: Any) -> Any:
    """Return the function of the first task of a library's batch, None for anything else."""
    attribute = BATCHES.get(events.qualified(type(thing)) or "")
    return next((task[0] for task in getattr(thing, attribute, ())), None) if attribute else None
