"""Describe a message that could not be unpickled, for whoever has to mend it.

Imported when the first load fails, because most processes never need it. Only the standard library
is imported. Nothing here may raise.
"""

from __future__ import annotations

from workercheck.recorder import events as _events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

_TRACEBACK_LIMIT = 12_000
_PICKLE_LIMIT = 1 << 20

_last: Any = None


def record(exc: BaseException, caller: FrameType | None, args: tuple[Any, ...]) -> None:
    """Write the event.

    Parameters
    ----------
    exc
        The error, with the traceback from the load inwards.
    caller
        The frame that called ``loads``; None where that was compiled code.
    args
        What ``loads`` was called with.
    """
    global _last
    try:
        trace = []
        innermost = None
        tb = exc.__traceback__ and exc.__traceback__.tb_next
        while tb is not None:
            trace.append((tb.tb_frame.f_code, tb.tb_lineno))
            innermost = tb.tb_frame
            tb = tb.tb_next
        # A message within a message fails once for each: the outer traceback ends with the inner.
        if _last is not None:
            code, inner, kind = _last
            tail = len(trace) - len(inner)
            if (
                kind is type(exc)
                and tail > 0
                and trace[tail:] == inner
                and trace[tail - 1][0] is code
            ):
                return
        _last = (caller and caller.f_code, trace, type(exc))
        import traceback

        stack: list[list[str]] = []
        frame = caller
        while frame is not None and len(stack) < 16:
            stack.append([frame.f_globals.get("__name__") or "", frame.f_code.co_name])
            frame = frame.f_back
        _events.write(
            "load-failed",
            stack=stack,
            interpreter=_interpreter(),
            exception=_events.qualified(type(exc)),
            message=_events.message_of(exc),
            name=_plain(getattr(exc, "name", None)),
            globals=_globals(args),
            raised_in=_qualified_frame(innermost),
            traceback=_events.text("".join(traceback.format_exception(exc)))[-_TRACEBACK_LIMIT:],
            cell=_events.cell(),
        )
    except Exception:
        _events.write_bare_failure(exc)


def _interpreter() -> int:
    """Return the id of this interpreter, 0 for the main one of a process."""
    try:
        import _interpreters  # type: ignore[import-not-found]

        return int(_interpreters.get_current()[0])
    except Exception:
        return 0


def _plain(value: object) -> str | None:
    return _events.text(value)[:200] if type(value) is str else None


def _qualified_frame(frame: FrameType | None) -> str | None:
    if frame is None or frame.f_code.co_filename.startswith("<frozen"):
        return None
    module = frame.f_globals.get("__name__")
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return (
        _events.text(module + "." + name)[:300] if type(module) is str else _events.text(name)[:300]
    )


def _globals(args: tuple[Any, ...]) -> list[str]:
    """List the names that the message refers to, in order: ``__main__.sphere``."""
    if not args or not isinstance(args[0], (bytes, bytearray, memoryview)):
        return []
    import pickletools

    return list(names_in(bytes(args[0][:_PICKLE_LIMIT]), pickletools.genops))


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
                yield _events.text(name)[:300]
                if len(seen) == 40:
                    return
    except Exception:
        return
