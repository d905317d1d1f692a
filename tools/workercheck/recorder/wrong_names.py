"""Notice a message that could be loaded, but in which a name means something else here.

What `pickle` stores as ``__main__.main`` says of itself that it is from ``__main__``; the
``__main__`` of a worker under forkserver has a ``main`` too, from multiprocessing.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

import sys

from workercheck.recorder import events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_right: set[str] = set()
"""Names in ``__main__`` that mean in this process what they mean in the page."""


def look_in(message: Any, thing: Any, number: int, caller: FrameType | None) -> None:
    """Look at the names in a message, and write the first that means something else here.

    Parameters
    ----------
    message : bytes-like or None
        The message, None where its bytes are not known.
    thing
        What was loaded: without its bytes, a process whose function is of ``__main__``.
    number
        What the message is known by.
    caller
        The frame that called ``loads``; None where that was compiled code.
    """
    from workercheck.recorder import failure

    if message is None:
        package = caller.f_globals["__package__"] if caller is not None else ""
        if str(thing._target.__module__).rpartition(".")[0] == package:
            name = f"__main__.{thing._target.__name__}"
            _write(name, thing._target, [name], number, caller)
        return
    names = failure.globals_in(message)
    main: Any = sys.modules.get("__main__")
    # An interpreter runs the sender's script under a name of its own, and has it as `__main__`.
    own = "__main__", "__mp_main__", events.attribute(main, "__name__")
    for name in names:
        if not name.startswith("__main__.") or name in _right:
            continue
        found: Any = main
        for part in name.split(".")[1:]:
            found = (events.attribute(found, "__dict__") or {}).get(part)
        module = events.attribute(found, "__module__")
        if type(module) is str and module not in own:
            _write(name, found, names, number, caller)
            return
        _right.add(name)


def _write(name: str, found: Any, names: list[str], number: int, caller: FrameType | None) -> None:
    from workercheck.recorder import behalf, failure, this_process

    events.write(
        "load-failed",
        stack=failure.stack(caller),
        interpreter=this_process.interpreter(),
        fingerprint=number,
        exception="",
        message="",
        name=name.rpartition(".")[2],
        globals=names,
        raised_in=None,
        importing=None,
        found=events.qualified(found) or events.attribute(found, "__module__"),
        traceback="",
        cell=behalf.cell(),
    )
