"""Record, inside a kernel and its workers, every message that could not be unpickled.

``workercheck.pth`` starts this module in each interpreter of a watched page, before anything
imports `pickle`. As soon as ``_pickle`` is there, its ``load`` and ``loads`` are replaced, so
whatever binds them later (`multiprocessing`, loky, joblib, distributed, …) is watched.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter. Nothing here may raise, print, or leave a frame in a traceback.
"""

import os
import sys
import time

from workercheck.recorder import events as _events
from workercheck.recorder import frameless as _invisible

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

FLIGHT_HEADER = 8
FLIGHT_SIZE = 4096

_flight: "Any" = None
_callers: "dict[int, tuple[CodeType, bool]]" = {}  # by id: is it the code of a transport?


def start() -> None:
    """Watch this interpreter. Idempotent."""
    if _events.folder:
        return
    _events.folder = os.environ.get(_events.ENV, "")
    if not _events.folder:
        return
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    _hello(forked=False)
    _observe()


def _observe() -> None:
    """Wait for what is watched to be imported: importing it here would cost more than all else."""
    monitoring: Any = getattr(sys, "monitoring", None)
    tools = (4, 3, 1) if monitoring is not None else ()
    tool = next((tool for tool in tools if monitoring.get_tool(tool) is None), None)
    if tool is None or "_pickle" in sys.modules:
        _watch_pickle_now()
    if monitoring is None:
        _bring_observers()
    if tool is None:
        return
    code = sys.modules["_frozen_importlib"]._load_unlocked.__code__
    event = monitoring.events.PY_RETURN

    def arrived(_code: "CodeType", _offset: int, module: "Any") -> None:
        name = getattr(module, "__name__", "")
        if name == "_pickle":
            _watch_pickle(module)
        elif name.startswith(_OBSERVED):
            monitoring.set_local_events(tool, code, 0)
            monitoring.free_tool_id(tool)
            _bring_observers()

    monitoring.use_tool_id(tool, "workercheck")
    monitoring.register_callback(tool, event, arrived)
    monitoring.set_local_events(tool, code, event)


def _bring_observers() -> None:
    try:
        from workercheck.recorder import handouts as _observer
        from workercheck.recorder import monitor as _monitor
        from workercheck.recorder import unseen as _unseen

        _monitor.on_arrival("_pickle", _watch_pickle)
        _monitor.on_arrival("dill._dill", _watch_dill)
        _observer.start()
        _unseen.start()
        _monitor.start()
    except Exception:  # the loads are what matters most
        _watch_pickle_now()


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
    global _flight
    _flight = None
    _events.forked = True
    for name in ("handouts", "unseen"):
        module = sys.modules.get("workercheck.recorder." + name)
        if module is not None:
            module.forget()
    _hello(forked=True)


def _open_flight() -> "Any":
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


def watched(real: "Any") -> type:
    """Wrap ``_pickle.load``, ``_pickle.loads`` or a function like them."""

    def __new__(cls: type, /, *args: "Any", **kwargs: "Any") -> "Any":
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
            _failed(exc, caller, args)
            return _invisible.raise_later(cls, exc)

    return _invisible.wrapper(real, __new__)


_OBSERVED = (*_events.TRANSPORTS, "asyncio.", "dill.")
"""Modules whose arrival brings the observers."""

_getframe = sys._getframe
_BUFFERS = (bytes, memoryview)
_Builtin = type(len)


def _watch_pickle_now() -> None:
    import _pickle

    _watch_pickle(_pickle)


def _watch_pickle(module: "Any") -> None:
    """Watch the loads of `pickle`, which binds them next."""
    for name in ("load", "loads"):
        if isinstance(getattr(module, name), _Builtin):
            setattr(module, name, watched(getattr(module, name)))


def _watch_dill(dill: "Any") -> None:
    """Watch the loads of dill, which multiprocess uses instead of `pickle`'s."""
    dill.loads = watched(dill.loads)


def _failed(exc: "BaseException", caller: "FrameType | None", args: "tuple[Any, ...]") -> None:
    try:
        from workercheck.recorder import failure as _failure

        _failure.record(exc, caller, args)
    except Exception:
        _events.write_bare_failure(exc)


def _classify(frame: "FrameType") -> "tuple[CodeType, bool]":
    module = frame.f_globals.get("__name__") or ""
    transport = module.startswith(_events.TRANSPORTS) or frame.f_code.co_filename.endswith(
        "popen_loky_posix.py"  # runs as __main__
    )
    known = _callers[id(frame.f_code)] = (frame.f_code, transport)
    return known
