"""Observe, inside a kernel and its workers, where work is submitted and where workers end.

With `sys.monitoring` (Python 3.12 and later) a function of an executor tells when it runs: it is
not wrapped, no frame of ours is in a traceback, and all other code runs as fast as ever. Without
it, a failure is put down to the cell that was running when it happened.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

import sys

from workercheck import _events

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Handler = Callable[[FrameType, str | None, Any], None]

_tool: int | None = None
_watched_code: dict[int, tuple[CodeType, Handler, str | None]] = {}
_submitted: set[tuple[str | None, ...]] = set()
_owners: list[Callable[[], Any]] = []
"""Weak references to what work was handed to."""
_targets: dict[int, tuple[Callable[[], Any], str | None]] = {}
"""By the id of a process: a weak reference to it, and the name of its target."""
_ended_on_purpose: set[int] = set()
_reaped: set[int] = set()


def cell() -> str | None:
    """Return the message id of the cell on whose behalf this code runs, None outside a kernel.

    ipykernel keeps it in a context variable: a task of `asyncio` still knows the cell that
    created it when it runs during a later one.
    """
    try:
        app = sys.modules["ipykernel.kernelapp"].IPKernelApp
        return str(app.instance().kernel.get_parent("shell")["header"]["msg_id"])
    except Exception:
        return None


def _names(function: Any, depth: int = 3) -> list[str]:
    """Name a function and the functions that it wraps or gets as arguments."""
    names = []
    name = _events.qualified(function)
    if name is not None:
        names.append(name)
    elif not isinstance(function, type):
        names.append(_events.qualified(type(function)) or "")
    if depth:
        inner = [getattr(function, "func", None), getattr(function, "__wrapped__", None)]
        inner += (getattr(function, "args", None) or ())[:4] if hasattr(function, "func") else ()
        for thing in inner:
            if callable(thing):
                names += _names(thing, depth - 1)
    return names


def _submit(frame: FrameType, function: str | None, _: Any) -> None:
    owner = frame.f_locals.get("self")
    names = _names(frame.f_locals.get(function)) if function else []
    for argument in (frame.f_locals.get("args") or ())[:6]:
        if callable(argument):
            names += _names(argument, 1)
    here = cell()
    executor = _events.qualified(type(owner)) or ""
    key = (here, executor, *names)
    if key not in _submitted:
        _submitted.add(key)
        _remember(owner)
        _events.write("submitted", executor=executor, names=names[:12], cell=here)


def _remember(owner: Any) -> None:
    import weakref

    try:
        _owners.append(weakref.ref(owner))
    except TypeError:
        pass


def _process_start(frame: FrameType, _argument: str | None, _value: Any) -> None:
    process = frame.f_locals.get("self")
    target = getattr(process, "_target", None)
    # start() deletes the target, and the name is wanted when the process ends.
    import weakref

    _targets[id(process)] = (weakref.ref(process), _events.qualified(target))
    if (_events.qualified(target) or "").startswith(_events.TRANSPORTS):
        return  # a worker of an executor, which has said what it was given
    names = _names(target) if target else [_events.qualified(type(process)) or ""]
    for argument in getattr(process, "_args", ())[:6]:
        if callable(argument):
            names += _names(argument, 1)
    _remember(process)
    _events.write("submitted", executor="multiprocessing.Process", names=names[:12], cell=cell())


def _interpreter_submit(frame: FrameType, function: str | None, value: Any) -> None:
    if type(frame.f_locals.get("self")).__name__ == "InterpreterPoolExecutor":
        _submit(frame, function, value)


def _pool_submit(frame: FrameType, function: str | None, value: Any) -> None:
    if type(frame.f_locals.get("self")).__name__ == "Pool":
        _submit(frame, function, value)


def _broken(frame: FrameType, _argument: str | None, _value: Any) -> None:
    manager = frame.f_locals["self"]
    reason = frame.f_locals.get("bpe")
    processes = dict(manager.processes or {})
    ended = {pid for pid, process in processes.items() if _has_ended(process)}
    if not (ended and ended <= _ended_on_purpose):
        _events.write(
            "pool-broken",
            executor=type(manager).__module__,
            pids=list(processes),
            ended=sorted(ended),
            exception=_events.qualified(type(reason))
            if isinstance(reason, BaseException)
            else None,
            message=_events.message_of(reason) if isinstance(reason, BaseException) else "",
        )
    _ended_on_purpose.update(processes)


def _has_ended(process: Any) -> bool:
    """Tell whether a child has ended, and leave it to its parent to find out."""
    import select

    return bool(select.select([process.sentinel], [], [], 0)[0])


def _signalled(frame: FrameType, argument: str | None, _: Any) -> None:
    child = getattr(frame.f_locals.get(argument or ""), "pid", None)
    if child is not None and child not in _ended_on_purpose:
        _ended_on_purpose.add(child)
        _events.write("terminated", child=child)


def _exited(frame: FrameType, _: str | None, exitcode: int | None) -> None:
    popen: Any = frame.f_locals.get("self")
    if exitcode and popen.pid not in _ended_on_purpose and popen.pid not in _reaped:
        _reaped.add(popen.pid)
        target = None
        for reference, name in list(_targets.values()):
            if getattr(reference(), "_popen", None) is popen:
                target = name
        _events.write("exited", child=popen.pid, exitcode=exitcode, target=target)


_EXECUTOR: dict[str, tuple[str, Handler, str | None]] = {
    "ProcessPoolExecutor.submit": ("start", _submit, "fn"),
    "_ExecutorManagerThread.terminate_broken": ("start", _broken, None),
}
_OBSERVED: dict[str, dict[str, tuple[str, Handler, str | None]]] = {
    "concurrent.futures.process": _EXECUTOR,
    "loky.process_executor": _EXECUTOR,
    "joblib.externals.loky.process_executor": _EXECUTOR,
    "concurrent.futures.thread": {
        "ThreadPoolExecutor.submit": ("start", _interpreter_submit, "fn")
    },
    "multiprocessing.pool": {
        "Pool.__init__": ("start", _pool_submit, "initializer"),
        "Pool.apply_async": ("start", _pool_submit, "func"),
        "Pool._map_async": ("start", _pool_submit, "func"),
        "Pool.imap": ("start", _pool_submit, "func"),
        "Pool.imap_unordered": ("start", _pool_submit, "func"),
    },
    "multiprocessing.process": {"BaseProcess.start": ("start", _process_start, None)},
    "multiprocessing.popen_fork": {
        "Popen.poll": ("return", _exited, None),
        "Popen._send_signal": ("start", _signalled, "self"),
    },
    "multiprocessing.popen_forkserver": {"Popen.poll": ("return", _exited, None)},
    "loky.backend.popen_loky_posix": {"Popen.poll": ("return", _exited, None)},
    "loky.backend.utils": {"kill_process_tree": ("start", _signalled, "process")},
    "joblib.externals.loky.backend.popen_loky_posix": {"Popen.poll": ("return", _exited, None)},
    "joblib.externals.loky.backend.utils": {"kill_process_tree": ("start", _signalled, "process")},
    "distributed.client": {
        "Client.submit": ("start", _submit, "func"),
        "Client.map": ("start", _submit, "func"),
        "Client._graph_to_futures": ("start", _submit, None),
    },
    "ipyparallel.client.view": {
        "DirectView._really_apply": ("start", _submit, "f"),
        "LoadBalancedView._really_apply": ("start", _submit, "f"),
    },
}


def start() -> None:
    """Ask to be called when one of the functions above runs."""
    global _tool
    monitoring: Any = getattr(sys, "monitoring", None)
    loaded = getattr(sys.modules.get("_frozen_importlib"), "_load_unlocked", None)
    if monitoring is None or loaded is None:
        return
    _tool = next((i for i in (4, 3, 1) if monitoring.get_tool(i) is None), None)
    if _tool is None:
        return
    events = monitoring.events
    monitoring.use_tool_id(_tool, "workercheck")
    monitoring.register_callback(_tool, events.PY_START, _on_start)
    monitoring.register_callback(_tool, events.PY_RETURN, _on_return)
    _watched_code[id(loaded.__code__)] = (loaded.__code__, _module_loaded, None)
    monitoring.set_local_events(_tool, loaded.__code__, events.PY_RETURN)
    for name in list(_OBSERVED):
        if name in sys.modules:
            _module_loaded(None, None, sys.modules[name])


def _on_start(code: CodeType, _offset: int) -> None:
    _handle(code, None)


def _on_return(code: CodeType, _offset: int, value: Any) -> None:
    _handle(code, value)


def _handle(code: CodeType, value: Any) -> None:
    try:
        _, handler, argument = _watched_code[id(code)]
        handler(sys._getframe(2), argument, value)
    except Exception:
        pass


def _module_loaded(_frame: Any, _argument: str | None, module: Any) -> None:
    functions = _OBSERVED.get(getattr(module, "__name__", ""))
    if functions is None:
        return
    monitoring: Any = getattr(sys, "monitoring", None)
    for path, (moment, handler, argument) in functions.items():
        function = module
        for part in path.split("."):
            function = getattr(function, part, None)
        code = getattr(function, "__code__", None)
        if code is not None:
            _watched_code[id(code)] = (code, handler, argument)
            event = monitoring.events.PY_START if moment == "start" else monitoring.events.PY_RETURN
            monitoring.set_local_events(_tool, code, event)


def forget() -> None:
    """Begin anew in a forked child."""
    _submitted.clear()
    _owners.clear()
    _targets.clear()


def is_busy() -> bool:
    """Tell whether work that was submitted in this process is still under way."""
    return any(_has_work(reference()) for reference in _owners)


def _has_work(owner: Any) -> bool:
    try:
        for attribute in ("_pending_work_items", "_cache"):  # executors; a Pool
            if getattr(owner, attribute, None):
                return True
        return owner is not None and hasattr(owner, "exitcode") and owner.exitcode is None
    except Exception:
        return False
