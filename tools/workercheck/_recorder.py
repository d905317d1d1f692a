"""Record, inside a kernel and its workers, every message that could not be unpickled.

``workercheck.pth`` starts this module in each interpreter of a watched page, before anything
imports `pickle`. It replaces ``_pickle.load`` and ``_pickle.loads``, so whatever binds them
later (`multiprocessing`, loky, joblib, distributed, …) is watched.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter. Nothing here may raise, print, or leave a frame in a traceback.
"""

from __future__ import annotations

import _pickle
import os
import sys
import time

from workercheck import _events, _invisible, _monitor, _observer, _unseen

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType
    from typing import Any

FLIGHT_HEADER = 8
FLIGHT_SIZE = 4096

_TRACEBACK_LIMIT = 12_000
_PICKLE_LIMIT = 1 << 20

_flight: Any = None
_callers: dict[int, tuple[CodeType, bool]] = {}  # by id: is it the code of a transport?
_last_failure: Any = None


def start() -> None:
    """Watch this interpreter. Idempotent."""
    if _events.folder:
        return
    _events.folder = os.environ.get(_events.ENV, "")
    if not _events.folder:
        return
    _pickle.load = watched(_pickle.load)
    _pickle.loads = watched(_pickle.loads)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    _hello(forked=False)
    _monitor.on_arrival("dill._dill", _watch_dill)
    _observer.start()
    _unseen.start()
    _monitor.start()


def _hello(*, forked: bool) -> None:
    _events.write(
        "hello",
        ppid=os.getppid(),
        argv=[_events.text(word)[:200] for word in sys.orig_argv[:8]],
        python=sys.version.split()[0],
        executable=sys.executable,
        forked=forked,
    )


def _after_fork() -> None:
    global _flight, _last_failure
    _flight = _last_failure = None
    _observer.forget()
    _unseen.forget()
    _hello(forked=True)


def _open_flight() -> Any:
    """Map this process's byte that tells whether a load is in flight."""
    global _flight
    try:
        import mmap

        path = _events.folder + "/flight-%d-%d" % (os.getpid(), time.time_ns())
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Written, not truncated: a sparse page on a full disk would raise SIGBUS.
            os.write(fd, bytes(FLIGHT_SIZE))
            _flight = mmap.mmap(fd, FLIGHT_SIZE)
        finally:
            os.close(fd)
    except Exception:
        _flight = bytearray(FLIGHT_SIZE)
    return _flight


# --- loads -----------------------------------------------------------------------------------


def watched(real: Any) -> type:
    """Wrap ``_pickle.load``, ``_pickle.loads`` or a function like them."""

    def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
        caller: FrameType | None
        try:
            caller = _getframe(1)
            known = _callers.get(id(caller.f_code)) or _classify(caller)
            transport = known[1]
        except ValueError:  # called from C, as concurrent.interpreters does
            transport, caller = True, None
        if not transport:
            try:
                return real(*args, **kwargs)
            except BaseException as exc:
                return _invisible.raise_later(cls, exc)
        flight = _flight or _open_flight()
        if args and type(args[0]) in _BUFFERS:
            head = args[0][: FLIGHT_SIZE - FLIGHT_HEADER]
            flight[FLIGHT_HEADER : FLIGHT_HEADER + len(head)] = head
        flight[0] = 1
        try:
            result = real(*args, **kwargs)
            flight[0] = 0
            return result
        except BaseException as exc:
            flight[0] = 0
            _record_failure(exc, caller, args)
            return _invisible.raise_later(cls, exc)

    return _invisible.wrapper(real, __new__)


_getframe = sys._getframe
_BUFFERS = (bytes, memoryview)


def _watch_dill(dill: Any) -> None:
    """Watch the loads of dill, which multiprocess uses instead of `pickle`'s."""
    dill.loads = watched(dill.loads)


def _classify(frame: FrameType) -> tuple[CodeType, bool]:
    module = frame.f_globals.get("__name__") or ""
    transport = module.startswith(_events.TRANSPORTS) or frame.f_code.co_filename.endswith(
        "popen_loky_posix.py"  # runs as __main__
    )
    known = _callers[id(frame.f_code)] = (frame.f_code, transport)
    return known


def _record_failure(exc: BaseException, caller: FrameType | None, args: tuple[Any, ...]) -> None:
    global _last_failure
    try:
        trace = []
        innermost = None
        tb = exc.__traceback__ and exc.__traceback__.tb_next
        while tb is not None:
            trace.append((tb.tb_frame.f_code, tb.tb_lineno))
            innermost = tb.tb_frame
            tb = tb.tb_next
        # A message within a message fails once for each: the outer traceback ends with the inner.
        if _last_failure is not None:
            code, inner, kind = _last_failure
            tail = len(trace) - len(inner)
            if (
                kind is type(exc)
                and tail > 0
                and trace[tail:] == inner
                and trace[tail - 1][0] is code
            ):
                return
        _last_failure = (caller and caller.f_code, trace, type(exc))
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
            cell=_observer.cell(),
        )
    except Exception:
        _events.write(
            "load-failed",
            stack=[],
            interpreter=0,
            exception=type(exc).__name__,
            message="",
            name=None,
            globals=[],
            raised_in=None,
            traceback="",
            cell=None,
        )


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


# --- at the end of a page ---------------------------------------------------------------------


async def closing(patience: float) -> None:
    """Wait for work still under way, then record which modules of its own the page imported.

    Run in the kernel, after the page's last cell.

    Parameters
    ----------
    patience : float
        Seconds that the work gets, at most. It is not waited for its own sake, but for its failure.
    """
    import asyncio

    deadline = time.monotonic() + patience
    while _observer.is_busy() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    _unseen.tell()
    _events.write("modules", files=_own_modules())


def _own_modules() -> dict[str, str]:
    import hashlib
    import sysconfig

    installed = tuple(os.path.realpath(p) + os.sep for p in set(sysconfig.get_paths().values()))
    modules = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if type(path) is not str or not os.path.isfile(path):
            continue
        path = os.path.realpath(path)
        if not path.startswith(installed):
            with open(path, "rb") as file:
                modules[path] = hashlib.sha256(file.read()).hexdigest()
    return modules
