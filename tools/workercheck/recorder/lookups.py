"""Watch the functions by which a worker finds, by its name, what it has been sent.

No message fails to load there: what cannot be found is a module, ``__main__`` of a script, or a
function that a library keeps by its name.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

import sys

from workercheck.recorder import events, frameless, messages

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from typing import Any

_getframe = sys._getframe


def watch_imports_of_main(module: Any) -> None:
    """Notice a ``__main__`` that a worker cannot import: it gets no work after that."""
    _watch(module, ("_fixup_main_from_name", "_fixup_main_from_path"), "__main__")


def watch(module: Any, names: tuple[str, ...]) -> None:
    """Watch functions of a library that find by its name what a worker has been sent."""
    _watch(module, names, None)


def _watch(module: Any, names: tuple[str, ...], importing: str | None) -> None:
    for name in names:
        if hasattr(module, name):
            setattr(module, name, _watched(getattr(module, name), importing))


def _watched(real: Any, importing: str | None) -> type:
    def __new__(cls: type, /, *args: Any) -> Any:
        try:
            return real(*args)
        except BaseException as exc:
            try:
                from workercheck.recorder import failure

                fields = failure.describe(exc, _getframe(1), None)
                fields["importing"] = importing or fields["importing"]
                events.write("load-failed", fingerprint=messages.loaded(), **fields)
            except Exception as error:
                events.failed("what a worker finds by its name", error)
            return frameless.raise_later(cls, exc)

    return frameless.wrapper(real, __new__)
