"""Be called when a function of a library runs, without wrapping it.

With `sys.monitoring` (Python 3.12 and later) the code of a function tells when it starts or
returns: no frame of ours is in a traceback, and all other code runs as fast as ever. Python 3.11
has nothing like it; there the function is wrapped after all (`workercheck.recorder.monitor311`).

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Handler = Callable[[FrameType, Any], None]
    """Takes the frame of the function and, when it returns, its value."""
    Watched = tuple[str, str, Handler]
    """Path of a function within its module, ``start`` or ``return``, and the handler."""

_tool: int | None = None
_wanted: dict[str, list[Watched]] = {}
_arrivals: dict[str, Callable[[Any], None]] = {}
_handlers: dict[tuple[int, str], list[Handler]] = {}
_codes: dict[int, CodeType] = {}  # kept, so that no other code gets the same id


def watch(functions: dict[str, list[Watched]]) -> None:
    """Have handlers called for functions of modules, by the name of the module."""
    for module, watched in functions.items():
        _wanted.setdefault(module, []).extend(watched)


def on_arrival(module: str, handler: Callable[[Any], None]) -> None:
    """Have a handler called with a module once it has been imported."""
    _arrivals[module] = handler


def start() -> None:
    """Begin to watch; modules that come later are watched as they come."""
    global _tool
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        from workercheck.recorder import monitor311 as _monitor311

        _monitor311.start(_wanted, _arrivals)
        return
    loaded: Any = sys.modules["_frozen_importlib"]._load_unlocked
    _tool = next((tool for tool in (4, 3, 1) if monitoring.get_tool(tool) is None), None)
    if _tool is None:
        return
    monitoring.use_tool_id(_tool, "workercheck")
    monitoring.register_callback(_tool, monitoring.events.PY_START, _started)
    monitoring.register_callback(_tool, monitoring.events.PY_RETURN, _returned)
    _observe(loaded.__code__, "return", lambda _frame, module: _arrived(module))
    for name in (*_wanted, *_arrivals):
        module = sys.modules.get(name)
        # One that is still being imported has not all its functions yet, and arrives later.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _arrived(module)


def _observe(code: CodeType, moment: str, handler: Handler) -> None:
    monitoring: Any = getattr(sys, "monitoring", None)
    _codes[id(code)] = code
    _handlers.setdefault((id(code), moment), []).append(handler)
    events = monitoring.events.NO_EVENTS
    if (id(code), "start") in _handlers:
        events |= monitoring.events.PY_START
    if (id(code), "return") in _handlers:
        events |= monitoring.events.PY_RETURN
    monitoring.set_local_events(_tool, code, events)


def _arrived(module: Any) -> None:
    name = getattr(module, "__name__", "")
    if name in _arrivals:
        _arrivals.pop(name)(module)
    for path, moment, handler in _wanted.pop(name, ()):
        function = module
        for part in path.split("."):
            function = getattr(function, part, None)
        # A property has its function, a decorated function the one that it wraps.
        function = getattr(function, "fget", function)
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if code is not None:
            _observe(code, moment, handler)


def _started(code: CodeType, _offset: int) -> None:
    _call(code, "start", None)


def _returned(code: CodeType, _offset: int, value: Any) -> None:
    _call(code, "return", value)


def _call(code: CodeType, moment: str, value: Any) -> None:
    try:
        for handler in _handlers.get((id(code), moment), ()):
            handler(sys._getframe(2), value)
    except Exception:
        pass
