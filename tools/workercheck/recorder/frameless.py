"""Make a wrapper that leaves no frame of its own in the traceback of what it wraps.

The wrapper is a class. Its ``__new__`` does the work and always returns; a failure is raised again
afterwards by ``__init__``, which is made of C functions only. A class is also no descriptor, hence
does not become a method when it is an attribute of another class, and it pickles by reference.

Only the standard library is imported, and as little of it as possible.
"""

import _codecs
import _functools  # type: ignore[import-not-found]
import _operator
import sys

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Wrapper(type):
    """The type of wrappers, which look like their functions where a page shows them."""

    real: "Any"
    """The function."""

    def __repr__(cls) -> str:
        return repr(cls.real)

    @property
    def __signature__(cls) -> "Any":
        import inspect

        return inspect.signature(cls.real)


def wrapper(real: "Any", new: "Callable[..., Any]") -> type:
    """Return a class that stands for the function *real*.

    Parameters
    ----------
    real
        Gives the name under which the wrapper is known and pickled.
    new
        Its ``__new__``: does the call, and returns what it gave or `raise_later`.
    """
    name = real.__name__
    return _Wrapper(
        name,
        (),
        {
            "real": real,
            "__new__": new,
            "__module__": real.__module__,
            "__qualname__": real.__qualname__,
            "__doc__": real.__doc__,
            "__slots__": (),
        },
    )


def replace(module: "Any", name: str, new: type) -> None:
    """Put a wrapper in the place of a function of a module, and of the one that made the function.

    By the name of that one it is pickled: `os.kill` is ``posix.kill``.
    """
    real = getattr(module, name)
    for owner in (module, sys.modules.get(real.__module__)):
        if getattr(owner, name, None) is real:
            setattr(owner, name, new)


def raise_later(cls: "Any", exc: "BaseException") -> "Any":
    """Return what ``__new__`` has to return for *exc* to be raised in its caller."""
    # The first entry is the frame of __new__.
    exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next
    failed = _failed.get(cls)
    if failed is None:
        throw = property(_operator.methodcaller("throw"))
        slots = {"__init__": throw, "__slots__": ("throw",), "__qualname__": cls.__qualname__}
        failed = _failed[cls] = type(cls.__name__, (cls,), slots)
    instance: Any = object.__new__(failed)
    instance.throw = _functools.partial(_codecs.lookup_error("strict"), exc)
    return instance


_failed: "dict[Any, Any]" = {}
