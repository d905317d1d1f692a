"""Notice, inside a kernel, work that failed without anybody looking at it.

A future whose result nobody asks for, a task that nobody awaits and a process whose exit code
nobody reads fail in silence: the cell that made them passes. Each of them is known by the cell that
made it, is looked at when its result is asked for, and is told at the end of the page otherwise.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

from workercheck.recorder import events as _events
from workercheck.recorder import handouts as _observer
from workercheck.recorder import monitor as _monitor

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_LIMIT = 50_000

_HOUSEKEEPING = (
    "distributed.",
    "ipykernel.",
    "ipyparallel.",
    "jupyter_client.",
    "tornado.",
    "zmq.",
)
"""Packages whose tasks are no work of the page, though they begin on behalf of a cell."""

_born: dict[int, tuple[str, list[str]]] = {}
"""By the id of a future or task: the cell that made it, and what it runs."""
_looked_at: set[int] = set()
_failed: dict[int, tuple[Any, str, list[str], str, BaseException]] = {}
"""By id: the object itself, so that its id stays its own; its cell, names, kind and error."""
_tasks: list[tuple[Any, str, list[str]]] = []
_processes: dict[int, tuple[Any, str, list[str]]] = {}
"""By id: processes that the page started itself, with their cell and what they run."""


def start() -> None:
    """Name the functions to watch."""
    future: list[_monitor.Watched] = [
        ("Future.set_exception", "start", _future_failed),
        ("Future.result", "start", _looked),
        ("Future.exception", "start", _looked),
    ]
    submit: list[_monitor.Watched] = [("ProcessPoolExecutor.submit", "return", _made("fn"))]
    _monitor.watch(
        {
            "concurrent.futures._base": future,
            "concurrent.futures.process": submit,
            "concurrent.futures.thread": [("ThreadPoolExecutor.submit", "return", _made("fn"))],
            "loky.process_executor": submit,
            "asyncio.base_events": [
                ("BaseEventLoop.create_task", "return", _task_made),
                ("BaseEventLoop.call_exception_handler", "start", _never_retrieved),
            ],
        }
    )
    for package in ("multiprocessing", "multiprocess"):
        _monitor.watch(
            {
                f"{package}.pool": [
                    ("Pool.apply_async", "return", _made("func")),
                    ("Pool._map_async", "return", _made("func")),
                    ("ApplyResult._set", "start", _result_failed),
                    ("MapResult._set", "start", _result_failed),
                    ("ApplyResult.get", "start", _looked),
                    ("ApplyResult.successful", "start", _looked),
                ],
                f"{package}.process": [
                    ("BaseProcess.start", "return", _process_made),
                    ("BaseProcess.exitcode", "return", _exitcode_read),
                ],
            }
        )


def tell() -> None:
    """Write an event for each piece of work that failed and that nobody looked at."""
    for thing, cell, names, kind, error in list(_failed.values()):
        if id(thing) not in _looked_at:
            _tell(kind, cell, names, error)
    _failed.clear()
    for reference, cell, names in _tasks:
        task = reference()
        # What asyncio itself goes by when it says "exception was never retrieved".
        if task is not None and task.done() and getattr(task, "_log_traceback", False):
            _tell("task", cell, names, task._exception)
    _tasks.clear()
    for process, cell, names in list(_processes.values()):
        code = process.exitcode if not process._closed else None
        if code is not None and code > 0 and id(process) not in _looked_at:
            _events.write(
                "unseen",
                what="process",
                cell=cell,
                names=names[:12],
                exception=None,
                message=f"exit code {code}",
                child=process.pid,
            )
    _processes.clear()


def forget() -> None:
    """Begin anew in a forked child."""
    for known in (_born, _failed, _tasks, _processes):
        known.clear()


def _tell(kind: str, cell: str, names: list[str], error: BaseException) -> None:
    _events.write(
        "unseen",
        what=kind,
        cell=cell,
        names=names[:12],
        exception=_events.qualified(type(error)) or "",
        message=_events.message_of(error),
        child=None,
    )


def _made(argument: str) -> _monitor.Handler:
    """Make the handler for a method that returns the future of the function in *argument*."""

    def made(frame: FrameType, future: Any) -> None:
        cell = _events.cell()
        # What a library hands to an executor, it has to look at itself.
        if cell is not None and future is not None and _events.is_page(frame.f_back):
            if len(_born) >= _LIMIT:
                del _born[next(iter(_born))]
            _born[id(future)] = (cell, _observer.names_of(frame.f_locals[argument], (), 1))
            _looked_at.discard(id(future))
            # Quick work may have failed before its future is handed out.
            error = getattr(future, "_exception", None)
            if error is None and getattr(future, "_success", True) is False and future.ready():
                error = future._value
            if error is not None:
                _fail("result" if hasattr(future, "_success") else "future", future, error)

    return made


def _looked(frame: FrameType, _: Any) -> None:
    future = frame.f_locals["self"]
    _failed.pop(id(future), None)
    if id(future) in _born:
        _looked_at.add(id(future))


def _future_failed(frame: FrameType, _: Any) -> None:
    _fail("future", frame.f_locals["self"], frame.f_locals["exception"])


def _result_failed(frame: FrameType, _: Any) -> None:
    result: Any = frame.f_locals["self"]
    success, value = frame.f_locals.get("obj") or frame.f_locals["success_result"]
    if not success and result._error_callback is None:
        _fail("result", result, value)


def _fail(kind: str, thing: Any, error: Any) -> None:
    if id(thing) in _born and id(thing) not in _looked_at and isinstance(error, BaseException):
        cell, names = _born[id(thing)]
        _failed[id(thing)] = (thing, cell, names, kind, error)


def _task_made(_frame: FrameType, task: Any) -> None:
    import weakref

    cell = _events.cell()
    coroutine = task.get_coro()
    module = coroutine.cr_frame.f_globals.get("__name__", "")
    if cell is not None and not module.startswith(_HOUSEKEEPING):
        names = [f"{module}.{coroutine.__qualname__}"]
        if len(_tasks) >= _LIMIT:
            _tasks[:] = [entry for entry in _tasks if entry[0]() is not None]
        _tasks.append((weakref.ref(task), cell, names))
        _born[id(task)] = (cell, names)


def _never_retrieved(frame: FrameType, _: Any) -> None:
    """Take what asyncio says of a task that was dropped."""
    context: Any = frame.f_locals["context"]
    task = context.get("task") or context.get("future")
    if "never retrieved" in context.get("message", "") and id(task) in _born:
        _tell("task", *_born.pop(id(task)), context["exception"])


def _process_made(frame: FrameType, _: Any) -> None:
    process: Any = frame.f_locals["self"]
    cell = _events.cell()
    target = _observer.target_of(process)
    if cell is not None and not (target or "").startswith(_events.TRANSPORTS):
        _processes[id(process)] = (process, cell, [target or ""])


def _exitcode_read(frame: FrameType, code: int | None) -> None:
    caller = frame.f_back
    if code and caller is not None:
        module = str(caller.f_globals.get("__name__"))
        if not module.startswith(_events.TRANSPORTS) and module != __name__:
            _looked_at.add(id(frame.f_locals["self"]))
