"""Be called when a function of a library runs, without wrapping it.

With `sys.monitoring` (Python 3.12 and later) the code of a function tells when it starts or
returns: no frame of ours is in a traceback, and all other code runs as fast as ever. Python 3.11
has nothing like it; there the function is wrapped after all (`workercheck.recorder.monitor311`).

A page may want any of the six numbers that `sys.monitoring` has for tools: the recorder gives up
its number when somebody asks for it, and goes on under another one.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

import sys

from workercheck.recorder import events, frameless

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Handler = Callable[[FrameType, Any], Any]
    """Takes the frame of the function and, when it returns, its value."""
    Watched = tuple[str, str, Handler]
    """Path of a function within its module, the moment, and the handler.

    The moment is ``start``, ``return``, or ``line``: each line, until the handler returns False
    for it. It is ``never`` where a class does often what is watched in its base.
    """

_id = events.identity

_NUMBERS = (5, 4, 3, 1, 2, 0)
"""The numbers of tools, those first that no known tool uses."""

_tool: int | None = None
_wanted: dict[str, list[Watched]] = {}
_arrivals: dict[str, Callable[[Any], None]] = {}
_each: Callable[[Any, Any], bool] | None = None
"""Called with the spec of each module that arrives, and the module, as long as it returns True."""
_starts: dict[int, Handler] = {}
_returns: dict[int, Handler] = {}
_lines: dict[int, Handler] = {}
_codes: dict[int, CodeType] = {}
"""By id, and kept, so that no other code gets the same id."""
_getframe = sys._getframe
_Function: Any = type(lambda: None)


def watch(module: str, path: str, moment: str, handler: Handler) -> None:
    """Have a handler called for a function of a module, at a moment as in `Watched`."""
    _wanted.setdefault(module, []).append((path, moment, handler))


def on_arrival(module: str, handler: Callable[[Any], None]) -> None:
    """Have a handler called with a module once it has been imported."""
    _arrivals[module] = handler


def on_each_arrival(handler: Callable[[Any, Any], bool]) -> None:
    """Have a handler called with each module's spec and the module, until it returns False."""
    global _each
    _each = handler


def start() -> None:
    """Begin to watch; modules that come later are watched as they come."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        from workercheck.recorder import monitor311

        monitor311.start(_wanted, _arrivals)
        monitor311.replace(sys.modules["_frozen_importlib"], "_load_unlocked", "return", _loaded)
        return
    if not _take_number():
        raise RuntimeError("every number of sys.monitoring is taken")
    _make_way(monitoring)
    loaded: Any = sys.modules["_frozen_importlib"]._load_unlocked
    observe(loaded.__code__, "return", _loaded)
    for name in (*_wanted, *_arrivals):
        module = sys.modules.get(name)
        # One that is still being imported has not all its functions yet, and arrives later.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _arrived(name, module)


def watch_now(owner: Any, name: str, moment: str, handler: Handler) -> None:
    """Have a handler called for a function of a module or a class that is here already."""
    if getattr(sys, "monitoring", None) is not None:
        observe(getattr(owner, name).__code__, moment, handler)
    else:
        from workercheck.recorder import monitor311

        monitor311.replace(owner, name, moment, handler)


def _take_number(but: int | None = None) -> bool:
    """Register under a free number; tell whether there was one."""
    global _tool
    monitoring: Any = getattr(sys, "monitoring", None)
    free = [n for n in _NUMBERS if n != but and _real_get_tool(monitoring, n) is None]
    if not free:
        return False
    _tool = free[0]
    use = getattr(monitoring.use_tool_id, "real", monitoring.use_tool_id)
    use(_tool, "workercheck")
    monitoring.register_callback(_tool, monitoring.events.PY_START, _started)
    monitoring.register_callback(_tool, monitoring.events.PY_RETURN, _returned)
    monitoring.register_callback(_tool, monitoring.events.LINE, _line_reached)
    for code in _codes.values():
        _set_events(code)
    return True


def _make_way(monitoring: Any) -> None:
    """Have the recorder's number look free, and be free when somebody takes it."""
    real_use, real_get = monitoring.use_tool_id, monitoring.get_tool

    def use(cls: type, /, tool: int, name: str) -> Any:
        if tool == _tool:
            _clear(tool)
            if not _take_number(but=tool):
                events.failed("sys.monitoring", RuntimeError("the page has taken every number"))
        try:
            return real_use(tool, name)
        except BaseException as exc:
            return frameless.raise_later(cls, exc)

    def get(cls: type, /, tool: int) -> Any:
        try:
            return None if tool == _tool else real_get(tool)
        except BaseException as exc:
            return frameless.raise_later(cls, exc)

    for name, real, new in (("use_tool_id", real_use, use), ("get_tool", real_get, get)):
        setattr(monitoring, name, frameless.wrapper(real, new))


def _real_get_tool(monitoring: Any, number: int) -> Any:
    return getattr(monitoring.get_tool, "real", monitoring.get_tool)(number)


def _clear(tool: int) -> None:
    monitoring: Any = getattr(sys, "monitoring", None)
    for code in _codes.values():
        monitoring.set_local_events(tool, code, 0)
    wanted = monitoring.events
    for event in (wanted.PY_START, wanted.PY_RETURN, wanted.LINE):
        monitoring.register_callback(tool, event, None)
    monitoring.free_tool_id(tool)


def observe(code: CodeType, moment: str, handler: Handler) -> None:
    """Have a handler called for a function, given its code."""
    _codes[_id(code)] = code
    if moment == "line":
        _lines[_id(code)] = handler
    else:
        handlers = _starts if moment == "start" else _returns
        first = handlers.get(_id(code))
        handlers[_id(code)] = handler if first is None else _both(first, handler)
    _set_events(code)


def _both(first: Handler, second: Handler) -> Handler:
    def both(frame: FrameType, value: Any) -> None:
        first(frame, value)
        second(frame, value)

    return both


def _set_events(code: CodeType) -> None:
    monitoring: Any = getattr(sys, "monitoring", None)
    wanted = monitoring.events.NO_EVENTS
    if _id(code) in _starts:
        wanted |= monitoring.events.PY_START
    if _id(code) in _returns:
        wanted |= monitoring.events.PY_RETURN
    if _id(code) in _lines:
        wanted |= monitoring.events.LINE
    monitoring.set_local_events(_tool, code, wanted)


def _loaded(frame: FrameType, module: Any) -> None:
    global _each
    # Not asked of the module: one of `importlib.util.LazyLoader` would be executed for it.
    spec = frame.f_locals["spec"]
    if spec.name in _arrivals or spec.name in _wanted:
        _arrived(spec.name, module)
    if _each is not None and not _each(spec, module):
        _each = None


def _arrived(name: str, module: Any) -> None:
    if name in _arrivals:
        _arrivals.pop(name)(module)
    for path, moment, handler in _wanted.pop(name, ()):
        code = code_of(module, path)
        if moment == "never":
            spare(module, path)
        elif code is not None:
            observe(code, moment, handler)


def spare(module: Any, path: str) -> None:
    """Give a class its own copy of a function of its base, which is watched there."""
    owner, _, name = path.partition(".")
    cls = getattr(module, owner, None)
    function = getattr(cls, name, None)
    if function is not None:
        real = getattr(function, "original", function)  # of the wrapper of Python 3.11
        copy = _Function(real.__code__.replace(), real.__globals__, name, real.__defaults__)
        copy.__kwdefaults__ = real.__kwdefaults__
        setattr(cls, name, copy)


def code_of(module: Any, path: str) -> CodeType | None:
    """Return the code of a function of a module, None where there is no such function.

    Parameters
    ----------
    module
        The module.
    path
        The path within it; ``outer.<locals>.inner`` is the function that another one makes.
    """
    path, *inner = path.split(".<locals>.")
    function = module
    for part in path.split("."):
        function = getattr(function, part, None)
    # A property has its function, a decorated function the one that it wraps.
    function = getattr(function, "fget", function)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code: CodeType | None = getattr(function, "__code__", None)
    for name in inner:
        made = code.co_consts if code is not None else ()
        code = next((c for c in made if getattr(c, "co_name", "") == name), None)
    return code


def _started(code: CodeType, _offset: int) -> None:
    try:
        _starts[_id(code)](_getframe(1), None)
    except Exception as exc:
        events.failed(code.co_qualname, exc)  # type: ignore[attr-defined,unused-ignore]


def _returned(code: CodeType, _offset: int, value: Any) -> None:
    try:
        _returns[_id(code)](_getframe(1), value)
    except Exception as exc:
        events.failed(code.co_qualname, exc)  # type: ignore[attr-defined,unused-ignore]


def _line_reached(code: CodeType, _line: int) -> Any:
    try:
        if _lines[_id(code)](_getframe(1), None):
            return None
    except Exception as exc:
        events.failed(code.co_qualname, exc)  # type: ignore[attr-defined,unused-ignore]
    return _DISABLE


_DISABLE: Any = getattr(getattr(sys, "monitoring", None), "DISABLE", None)
