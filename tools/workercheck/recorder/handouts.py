"""Observe, inside a kernel and its workers, where work is submitted and where workers end.

Where functions cannot be watched (`workercheck.recorder.monitor`), a failure is put down to the cell that
was running when it happened.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

from __future__ import annotations

import sys

from workercheck.recorder import events as _events
from workercheck.recorder import monitor as _monitor

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_submitted: set[tuple[str | None, ...]] = set()
_owners: list[Callable[[], Any]] = []
"""Weak references to what work was handed to."""
_targets: dict[int, tuple[Callable[[], Any], str | None]] = {}
"""By the id of a process: a weak reference to it, and the name of its target."""
_ended_on_purpose: set[int] = set()
_reaped: set[int] = set()


def start() -> None:
    """Name the functions to watch."""
    _monitor.watch(
        {
            "concurrent.futures.process": _EXECUTOR,
            "concurrent.futures.thread": [
                ("ThreadPoolExecutor.__init__", "start", _thread_pool),
                ("ThreadPoolExecutor.submit", "start", _interpreter_submit),
            ],
            "mpi4py.futures.pool": [("MPIPoolExecutor.submit", "start", _submit("fn"))],
            "distributed.client": [
                ("Client.submit", "start", _submit("func")),
                ("Client.map", "start", _submit("func")),
                ("Client._graph_to_futures", "start", _submit("")),
            ],
            # A nanny waits for none but those that it has asked to close. One that is still
            # starting stumbles over that, and exits with 1.
            "distributed.process": [("AsyncProcess.join", "start", _signalled("self"))],
            "ipyparallel.client.view": [
                ("DirectView._really_apply", "start", _submit("f")),
                ("LoadBalancedView._really_apply", "start", _submit("f")),
            ],
        }
    )
    for package in ("loky", "joblib.externals.loky"):
        _monitor.watch(
            {
                f"{package}.process_executor": _EXECUTOR,
                f"{package}.backend.popen_loky_posix": [("Popen.poll", "return", _exited)],
                f"{package}.backend.utils": [("kill_process_tree", "start", _signalled("process"))],
            }
        )
    for package in ("multiprocessing", "multiprocess"):
        _monitor.watch(
            {
                f"{package}.pool": [
                    ("Pool.__init__", "start", _pool_submit("initializer")),
                    *(
                        (f"Pool.{name}", "start", _pool_submit("func"))
                        for name in ("apply_async", "_map_async", "imap", "imap_unordered")
                    ),
                ],
                f"{package}.process": [("BaseProcess.start", "start", _process_start)],
                f"{package}.queues": [
                    ("Queue.put", "start", _sent("multiprocessing.Queue")),
                    ("SimpleQueue.put", "start", _sent("multiprocessing.Queue")),
                ],
                f"{package}.managers": [
                    ("BaseProxy._callmethod", "start", _sent("multiprocessing.Manager"))
                ],
                f"{package}.popen_fork": [
                    ("Popen.poll", "return", _exited),
                    ("Popen._send_signal", "start", _signalled("self")),
                ],
                f"{package}.popen_forkserver": [("Popen.poll", "return", _exited)],
            }
        )


def forget() -> None:
    """Begin anew in a forked child."""
    _submitted.clear()
    _owners.clear()
    _targets.clear()


def is_busy() -> bool:
    """Tell whether work that was submitted in this process is still under way."""
    return any(_has_work(reference()) for reference in _owners)


def names_of(function: Any, arguments: tuple[Any, ...] = (), depth: int = 3) -> list[str]:
    """Name a function, those that it wraps, and those among its arguments."""
    names = [_events.qualified(function) or _events.qualified(type(function)) or ""]
    inner: list[Any] = []
    # Only what is known to be plain is looked into: an object of the page may run code when asked
    # for an attribute.
    if type(function) is getattr(sys.modules.get("functools"), "partial", None):
        inner = [function.func, *function.args[:6]]
    elif type(function).__name__ in ("function", "_lru_cache_wrapper"):
        inner = [function.__dict__.get("__wrapped__")]
    for thing in [*inner, *arguments[:6]]:
        if depth and callable(thing):
            names += names_of(thing, (), depth - 1)
    return names


def target_of(process: Any) -> str | None:
    """Name what a process that has been started runs."""
    return _targets.get(id(process), (None, None))[1]


def _submit(argument: str) -> _monitor.Handler:
    """Make the handler for a method whose parameter *argument* is the function to run."""

    def submit(frame: FrameType, _: Any) -> None:
        owner = frame.f_locals["self"]
        function = frame.f_locals.get(argument)
        names = names_of(function, frame.f_locals.get("args") or ()) if function else []
        key = (_events.cell(), _events.qualified(type(owner)) or "", *names)
        if key not in _submitted:
            _submitted.add(key)
            _remember(owner)
            _events.write("submitted", executor=key[1], names=names[:12], cell=key[0])

    return submit


def _thread_pool(frame: FrameType, _: Any) -> None:
    """Notice a pool of threads that the page makes: nothing is sent, but it is used."""
    kind = type(frame.f_locals["self"]).__name__
    if kind == "ThreadPoolExecutor" and _events.cell() and _events.is_page(frame.f_back):
        name = "concurrent.futures.ThreadPoolExecutor"
        _events.write("submitted", executor=name, names=[], cell=_events.cell())


def _interpreter_submit(frame: FrameType, value: Any) -> None:
    # Threads share the page's memory; interpreters do not.
    if type(frame.f_locals["self"]).__name__ == "InterpreterPoolExecutor":
        _submit("fn")(frame, value)


def _pool_submit(argument: str) -> _monitor.Handler:
    def submit(frame: FrameType, value: Any) -> None:
        if type(frame.f_locals["self"]).__name__ == "Pool":  # not a ThreadPool
            _submit(argument)(frame, value)

    return submit


def _sent(executor: str) -> _monitor.Handler:
    """Make the handler for a method with which the page itself sends an object."""

    def sent(frame: FrameType, _: Any) -> None:
        here = _events.cell()
        caller = frame.f_back
        module = str(caller.f_globals.get("__name__")) if caller is not None else ""
        # An executor that sends what is its own, though the page has called it.
        of_library = module.startswith(_events.TRANSPORTS) and not module.endswith(".managers")
        if here is not None and not of_library and _events.is_page(caller):
            things = (frame.f_locals.get("obj"), *(frame.f_locals.get("args") or ()))
            names = [name for thing in things[:6] for name in names_of(type(thing), (thing,), 1)]
            key = (here, executor, *names)
            if key not in _submitted:
                _submitted.add(key)
                _events.write("submitted", executor=executor, names=names[:12], cell=here)

    return sent


def _process_start(frame: FrameType, _: Any) -> None:
    import weakref

    process: Any = frame.f_locals["self"]
    target = getattr(process, "_target", None)
    name = _events.qualified(target)
    # start() deletes the target, and the name is wanted when the process ends.
    _targets[id(process)] = (weakref.ref(process), name)
    if (name or "").startswith(_events.TRANSPORTS):
        return  # a worker of an executor, which has said what it was given
    _remember(process)
    _events.write(
        "submitted",
        executor="multiprocessing.Process",
        names=names_of(target or type(process), getattr(process, "_args", ()))[:12],
        cell=_events.cell(),
    )


def _remember(owner: Any) -> None:
    import weakref

    try:
        _owners.append(weakref.ref(owner))
    except TypeError:
        pass


def _has_work(owner: Any) -> bool:
    try:
        for attribute in ("_pending_work_items", "_cache"):  # executors; a Pool
            if getattr(owner, attribute, None):
                return True
        return owner is not None and hasattr(owner, "_popen") and owner.is_alive()
    except Exception:
        return False


def _broken(frame: FrameType, _: Any) -> None:
    manager: Any = frame.f_locals["self"]
    reason = frame.f_locals.get("bpe")
    processes = dict(manager.processes or {})
    ended = {pid for pid, process in processes.items() if _has_ended(process)}
    if not (ended and ended <= _ended_on_purpose):
        is_error = isinstance(reason, BaseException)
        _events.write(
            "pool-broken",
            executor=type(manager).__module__,
            pids=list(processes),
            ended=sorted(ended),
            exception=_events.qualified(type(reason)) if is_error else None,
            message=_events.message_of(reason) if isinstance(reason, BaseException) else "",
        )
    _ended_on_purpose.update(processes)


def _has_ended(process: Any) -> bool:
    """Tell whether a child has ended, and leave it to its parent to find out."""
    import select

    return bool(select.select([process.sentinel], [], [], 0)[0])


def _signalled(argument: str) -> _monitor.Handler:
    """Make the handler for a function by which the process in *argument* is to end."""

    def signalled(frame: FrameType, _: Any) -> None:
        child = frame.f_locals[argument].pid
        if child not in _ended_on_purpose:
            _ended_on_purpose.add(child)
            _events.write("terminated", child=child)

    return signalled


def _exited(frame: FrameType, exitcode: int | None) -> None:
    popen: Any = frame.f_locals["self"]
    if exitcode and popen.pid not in _ended_on_purpose and popen.pid not in _reaped:
        _reaped.add(popen.pid)
        target = None
        for reference, name in list(_targets.values()):
            if getattr(reference(), "_popen", None) is popen:
                target = name
        _events.write("exited", child=popen.pid, exitcode=exitcode, target=target)


_EXECUTOR: list[_monitor.Watched] = [
    ("ProcessPoolExecutor.submit", "start", _submit("fn")),
    ("_ExecutorManagerThread.terminate_broken", "start", _broken),
]
