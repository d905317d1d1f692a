"""Describe a message that could not be unpickled or pickled, for whoever has to mend it.

Imported when the first message fails, because most processes never need it. Only the standard
library is imported.
"""

from __future__ import annotations

import contextlib
import sys

from workercheck.libraries import MODULES, NUMBERED
from workercheck.recorder import behalf, events, frames, naming, this_process

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

_TRACEBACK_LIMIT = 12_000
_PICKLE_LIMIT = 1 << 20
_SEARCHED = 200
"""How many objects are looked at to find the one that an error names."""
_Function = type(lambda: None)


def describe(exc: BaseException, caller: FrameType | None, message: Any) -> dict[str, Any]:
    """Return the fields of the event about a load that failed, without the fingerprint.

    Parameters
    ----------
    exc
        The error, with the traceback from the load inwards.
    caller
        The frame that called ``loads``; None where that was compiled code.
    message
        The bytes, None where they came from a file.
    """
    raising, names = _frames(exc), globals_in(message)
    common = _common(exc, caller, raising)
    return {
        **common,
        "raised_in": common["raised_in"] or _method_behind(raising, names),
        "interpreter": this_process.interpreter(),
        "name": _plain(events.attribute(exc, "name")),
        "globals": names,
        "importing": next(
            (
                _plain(frame.f_globals.get("__name__"))
                for frame in reversed(raising)
                if frame.f_code.co_name == "<module>"
            ),
            None,
        ),
        "found": None,
    }


def describe_unsent(exc: BaseException, caller: FrameType | None, thing: Any) -> dict[str, Any]:
    """Return the fields of the event about an object that could not be pickled.

    Parameters
    ----------
    exc, caller
        As for `describe`.
    thing
        What the message would have carried.
    """
    blamed = _blamed(exc, thing)
    if str(events.attribute(blamed, "__module__")).partition(".")[0] in sys.stdlib_module_names:
        blamed = None  # a part of what the reader sends
    name = events.qualified(blamed) if blamed is not None else _name_of_unsent(thing)
    return {**_common(exc, caller, _frames(exc)), "object": name}


def globals_in(message: Any) -> list[str]:
    """List the names that a message refers to, in order: ``__main__.sphere``."""
    if message is None:
        return []
    import pickletools

    return list(names_in(bytes(message[:_PICKLE_LIMIT]), pickletools.genops))


def names_in(message: bytes, genops: Callable[[bytes], Any]) -> Iterator[str]:
    """Yield each global that the pickle refers to, as ``module.qualname``.

    Parameters
    ----------
    message : bytes
        A pickle, possibly cut short.
    genops : callable
        `pickletools.genops`, handed in because importing it here would cost every interpreter.

    Yields
    ------
    str
        In the order of their first use, at most forty.
    """
    strings: list[str] = []
    memo: dict[int, str] = {}
    seen: set[str] = set()
    try:
        for opcode, arg, _ in genops(message):
            name = None
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "BINUNICODE8"):
                strings.append(arg)
            elif opcode.name == "MEMOIZE":
                memo[len(memo)] = strings[-1] if strings else ""
            elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[int(arg)] = strings[-1] if strings else ""
            elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                strings.append(memo.get(int(arg), ""))
            elif opcode.name == "GLOBAL":
                name = ".".join(arg.split(" ", 1))
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                name = strings[-2] + "." + strings[-1]
            if name and name not in seen:
                seen.add(name)
                yield events.text(name)[:300]
                if len(seen) == 40:
                    return
    except Exception:
        return


_NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1")


def work_id_of(message: Any) -> int | None:
    """Return the number of its work that a message carries, None where it carries none.

    Parameters
    ----------
    message : bytes-like
        A pickle, possibly cut short.
    """
    import pickletools

    content = bytes(message[:_PICKLE_LIMIT])
    if next(names_in(content, pickletools.genops), None) not in NUMBERED:
        return None
    is_named = False
    with contextlib.suppress(Exception):
        for opcode, arg, _ in pickletools.genops(content):
            if is_named and type(arg) is int and opcode.name in _NUMBERS:
                return arg
            is_named = is_named or arg == "work_id"
    return None


def _method_behind(raising: list[FrameType], names: list[str]) -> str | None:
    """Return the method of an object in the message, in code that Python made for its class."""
    for frame in reversed(raising):
        owner = events.qualified(type(frame.f_locals.get("self")))
        if owner in names:
            return events.text(f"{owner}.{frame.f_code.co_name}")[:300]
    return None


def _common(
    exc: BaseException, caller: FrameType | None, raising: list[FrameType]
) -> dict[str, Any]:
    import traceback

    return {
        "stack": stack(caller),
        "exception": events.qualified(type(exc)) or "",
        "message": events.message_of(exc),
        "raised_in": next(
            (frames.name_of(frame) for frame in reversed(raising) if frames.is_reader(frame)),
            None,
        ),
        "traceback": events.text("".join(traceback.format_exception(exc)))[-_TRACEBACK_LIMIT:],
        "cell": behalf.cell(),
    }


def _frames(exc: BaseException) -> list[FrameType]:
    """Return the frames from the load inwards, without the frame of the wrapper."""
    tb = exc.__traceback__ and exc.__traceback__.tb_next
    found = []
    while tb is not None:
        found.append(tb.tb_frame)
        tb = tb.tb_next
    return found


def stack(frame: FrameType | None) -> list[list[str]]:
    """Return module and name of the functions on the stack, from the innermost outwards."""
    found: list[list[str]] = []
    while frame is not None and len(found) < 16:
        found.append([frames.module_of(frame), frame.f_code.co_name])
        frame = frame.f_back
    return found


def _plain(value: object) -> str | None:
    return events.text(value)[:200] if type(value) is str else None


_CARRIED = ("fn", "_target", "result", "exception", "exc")
"""In what an envelope of a library may keep the function of a task, or what became of it."""


def _name_of_unsent(thing: Any) -> str | None:
    """Name what a message would have carried: the function of a task, or the class of an object.

    None where that is a library's list of whatever was sent.
    """
    message = thing
    if type(thing).__module__.startswith(MODULES):  # a library's envelope
        kept = events.attribute(thing, "__dict__") or {}
        carried = [kept.get(name) for name in _CARRIED]
        thing = next((one for one in carried if one is not None), thing)
    elif type(thing) is tuple and len(thing) == 5:  # a task of a Pool
        thing = _function_of_chunk(thing)
    elif _is_result_of_pool(thing):
        thing = thing[2][1]
        if type(thing).__module__.startswith(MODULES):  # an error, with its traceback
            error = events.attribute(thing, "exc")
            thing = thing if error is None else error
    elif type(thing) is tuple:  # a function and its arguments, as other libraries send them
        thing = next((one for one in thing if callable(one)), thing)
    wrapped = (events.attribute(thing, "__dict__") or {}).get("func")  # by what a library runs it
    thing = _within_partial(wrapped if callable(wrapped) else thing)
    batched = naming.first_of_batch(thing)
    thing = batched if batched is not None else thing
    if thing is message and type(thing) in (dict, list, tuple):
        return None
    return events.qualified(thing) or events.qualified(type(thing))


def _within_partial(thing: Any) -> Any:
    """Return the reader's function in a `functools.partial`, also in one that a library made."""
    partial = getattr(sys.modules.get("functools"), "partial", None)
    while type(thing) is partial:
        is_library = str(events.attribute(thing.func, "__module__")).startswith(MODULES)
        thing = thing.args[0] if is_library and thing.args else thing.func
    return thing


def _blamed(exc: BaseException, thing: Any) -> Any:
    """Return the function or the class in what was to be sent that the error of pickle names."""
    text = events.message_of(exc)
    queue, seen = [thing], {id(thing)}
    while queue and len(seen) < _SEARCHED:
        one = queue.pop(0)
        for candidate in (one, type(one)):
            if _is_named(candidate, text):
                return candidate
        for part in _parts(one):
            if id(part) not in seen:
                seen.add(id(part))
                queue.append(part)
    return None


def _is_named(thing: Any, text: str) -> bool:
    """Tell whether a text has the address of a function, or the name of a class."""
    if type(thing) is _Function:
        return repr(thing) in text or f"local object '{thing.__qualname__}'" in text
    name = events.qualified(thing) if events.is_a(thing, type) else None
    if name is None:
        return False
    # A class may show itself in a way of its own, as those of enumerations do.
    module, _, own = name.rpartition(".")
    return f"<class '{name}'>" in text or text.endswith(
        (f" as {name}", f"attribute lookup {own} on {module} failed")
    )


def _parts(thing: Any) -> list[Any]:
    """Return what an object holds, as far as that can be told without running code of its own."""
    if type(thing) in (tuple, list, set, frozenset):
        return list(thing)[:_SEARCHED]
    if type(thing) in (dict, getattr(sys.modules.get("collections"), "defaultdict", None)):
        return [getattr(thing, "default_factory", None), *list(thing.values())[:_SEARCHED]]
    if type(thing) is getattr(sys.modules.get("functools"), "partial", None):
        return [thing.func, *thing.args, *thing.keywords.values()]
    try:
        return list(object.__getattribute__(thing, "__dict__").values())[:_SEARCHED]
    except AttributeError:
        return []


def _is_result_of_pool(thing: Any) -> bool:
    """Tell whether a message is the number of a task, and whether it succeeded, with its value."""
    return (
        type(thing) is tuple
        and len(thing) == 3
        and type(thing[2]) is tuple
        and len(thing[2]) == 2
        and type(thing[2][0]) is bool
    )


def _function_of_chunk(task: tuple[Any, ...]) -> Any:
    function, arguments = task[2], task[3]
    if events.qualified(function) in ("multiprocessing.pool.mapstar",) and arguments:
        try:
            return arguments[0][0]
        except Exception:
            return function
    return function
