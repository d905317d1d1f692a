"""Be called when a function of a library runs, on Python 3.11: by wrapping it.

To be deleted with the support for 3.11. The wrapper leaves no frame in a traceback
(`workercheck.recorder.frameless`); the functions differ from their originals to whoever inspects
them.
"""

from __future__ import annotations

import atexit
import sys

from workercheck.recorder import frameless as _invisible
from workercheck.recorder import monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from workercheck.recorder.monitor import Watched


def start(wanted: dict[str, list[Watched]], arrivals: dict[str, Callable[[Any], None]]) -> None:
    """Wrap the functions of modules as they are imported."""
    sys.meta_path.insert(0, _Finder(wanted, arrivals))


class _Finder:
    """Finds the modules to watch as they would be found, with a loader around their own."""

    def __init__(
        self, wanted: dict[str, list[Watched]], arrivals: dict[str, Callable[[Any], None]]
    ) -> None:
        self.wanted = wanted
        self.arrivals = arrivals

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that the other finders give."""
        if name not in self.wanted and name not in self.arrivals:
            return None
        for finder in sys.meta_path:
            if finder is not self:
                spec: Any = finder.find_spec(name, path, target)
                if spec is not None:
                    spec.loader = _Loader(self, spec.loader)
                    return spec
        return None


class _Loader:
    def __init__(self, finder: _Finder, loader: Any) -> None:
        self._finder = finder
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        name = module.__name__
        if name in self._finder.arrivals:
            self._finder.arrivals.pop(name)(module)
        for path, moment, handler in self._finder.wanted.pop(name, ()):
            if moment == "never":
                monitor.spare(module, path)
                continue
            owner = module
            *parents, attribute = path.split(".")
            for part in parents:
                owner = getattr(owner, part, None)
            if owner is not None and attribute in vars(owner):
                replace(owner, attribute, moment, handler)


def replace(owner: Any, name: str, moment: str, handler: Any) -> None:
    """Wrap a function of a module or a class, under each name that it has there."""
    function = vars(owner)[name]
    wrapped = _wrap(function, moment, handler, not isinstance(owner, type))
    for alias in [alias for alias, value in vars(owner).items() if value is function]:
        setattr(owner, alias, wrapped)  # an iterator's `__next__` may be its `next`
    if name == "_exit_function":  # which `multiprocessing.util` has registered as it was
        atexit.unregister(function)
        atexit.register(wrapped)


def before_excepthook(threading: Any, handler: Any) -> None:
    """Have *handler* called before the hook of a thread that ends with an error."""
    make = threading._make_invoke_excepthook

    def _make_invoke_excepthook() -> Any:
        real = make()

        def invoke_excepthook(thread: Any) -> None:
            try:
                handler(sys._getframe(), None)
            except Exception:
                pass
            real(thread)

        return invoke_excepthook

    threading._make_invoke_excepthook = _make_invoke_excepthook


def _wrap(function: Any, moment: str, handler: Any, is_plain: bool) -> Any:
    if isinstance(function, property):
        return property(_watched(function.fget, moment, handler), function.fset, function.fdel)
    if isinstance(function, _Method):
        return _Method(_watched(function.function, moment, handler))
    watched = _watched(function, moment, handler)
    return watched if is_plain else _Method(watched)


_BoundMethod: Any = type(_Finder({}, {}).find_spec)


class _Method:
    """Binds a wrapper, which is a class, as a function is bound."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self.function if instance is None else _BoundMethod(self.function, instance)


class _Call:
    """What a handler wants to know of a frame."""

    def __init__(self, function: Any, caller: FrameType | None, args: Any, kwargs: Any) -> None:
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = function.__code__
        self.f_back = caller
        self.f_code = code
        self.f_globals = function.__globals__
        self.f_lasti = self.f_lineno = 0
        self.f_locals = dict(zip(code.co_varnames[: code.co_argcount], args, strict=False))
        self.f_locals.update(kwargs)
        if code.co_flags & 0x04:  # takes *args
            self.f_locals["args"] = args[code.co_argcount :]


def _watched(function: Any, moment: str, handler: Any) -> type:
    original = getattr(function, "original", function)

    def tell(caller: FrameType | None, args: Any, kwargs: Any, value: Any) -> None:
        try:
            handler(_Call(original, caller, args, kwargs), value)
        except Exception:
            pass

    def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
        try:
            caller: Any = sys._getframe(1)
        except ValueError:  # called from a thread of compiled code
            caller = None
        while caller is not None and caller.f_code is own:  # wrapped for another handler, too
            caller = caller.f_back
        if moment != "return":
            tell(caller, args, kwargs, None)
        try:
            value = function(*args, **kwargs)
        except BaseException as exc:
            return _invisible.raise_later(cls, exc)
        if moment == "return":
            tell(caller, args, kwargs, value)
        return value

    own = __new__.__code__
    wrapper: Any = _invisible.wrapper(original, __new__)
    wrapper.original = original
    return wrapper  # type: ignore[no-any-return]
