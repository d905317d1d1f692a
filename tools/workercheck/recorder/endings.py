"""Processes: who started them, who ended them on purpose, and which ended by themselves.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import weakref

from workercheck.libraries import FOR_READER, MODULES, RESULT_READERS
from workercheck.recorder import (
    asynchronous,
    events,
    frameless,
    handles,
    keyed,
    messages,
    monitor,
    places,
    work,
)

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_id = events.identity

# Kept from before a test suite or a page can replace them.
_open, _listdir = open, os.listdir
_sleep = time.sleep

PATIENCE = 10.0
"""Seconds that the work of a program gets to fail at its end, at most."""

_DROPPED_WITHIN = 5.0
"""Seconds that work which nobody can ask for any more gets to fail in the test that dropped it."""
_POLL = 0.005
_LOOKS = 4

_EXITING = 0x4
"""Flag of a process that Linux is taking down: ``PF_EXITING`` in ``include/linux/sched.h``."""


class _Pool:
    """The workers that read one queue, or a process that reads none."""

    def __init__(self, place: int = 0, message: int = 0) -> None:
        self.place = place
        """Where the first of them was started."""
        self.message = message
        """What this process worked on then, 0 in one that is no worker."""
        self.has_lost_workers = False


_awaited: set[Callable[[], Any]] = set()
"""Weak references to handles that a test has waited for, and that no other test waits for."""
_owners: list[Callable[[], Any]] = []
"""Weak references to what may still fail: threads that manage executors, pools, processes."""
_children: dict[int, tuple[str | None, handles.Handle | None, _Pool]] = {}
"""By pid: what a process runs, which `start` makes it forget, its handle, and its pool."""
_starting: dict[int, tuple[str | None, bool, _Pool]] = {}
"""By the id of a process that is being started: target, whether it is the reader's, its pool."""
_pools: weakref.WeakKeyDictionary[Any, _Pool] = weakref.WeakKeyDictionary()
"""By the queue of an executor's workers."""
_reaped: set[int] = set()
_signals: set[tuple[int, int]] = set()


# --- started --------------------------------------------------------------------------------------


def process_starts(frame: FrameType, _: Any) -> None:
    """Note where a process is started, and what it will run."""
    process: Any = frame.f_locals["self"]
    target = getattr(process, "_target", None)
    arguments = getattr(process, "_args", ())
    name = events.qualified(target) or events.qualified(type(process))
    # The reader may run a library's function, such as the `get` of a Queue, in a process.
    of_library = (name or "").startswith(MODULES) and _is_of_library(frame.f_back)
    # The first argument of a process for one call is the function, which other calls share.
    queue = next((a for a in arguments[:1] if of_library and not callable(a)), None)
    owned = places.is_held_by_reader(frame.f_back)
    pool = _pool_of(queue)
    if pool is None:
        executor = places.executor_behind(frame)
        place = places.place(frame.f_back, executor, target or type(process), arguments)
        pool = _Pool(place, messages.loaded())
        if queue is not None:
            with contextlib.suppress(TypeError):
                _pools[queue] = pool
    _starting[_id(process)] = (name, owned and not of_library, pool)


def _is_of_library(frame: FrameType | None) -> bool:
    """Tell whether a library runs functions of its own in the processes that a frame starts."""
    return frame is not None and places.kind(frame) == places.CARRIER and not _is_for_reader(frame)


def _is_for_reader(frame: FrameType) -> bool:
    """Tell whether who looks at a process looks for the reader."""
    return (
        places.kind(frame) in (places.READER, places.OTHER)
        or frame.f_globals.get("__name__") in FOR_READER
    )


def _pool_of(queue: Any) -> _Pool | None:
    try:
        return _pools.get(queue)
    except TypeError:
        return None


def process_started(frame: FrameType, _: Any) -> None:
    """Write who started a process."""
    process: Any = frame.f_locals["self"]
    name, owned, pool = _starting.pop(_id(process), (None, False, _Pool()))
    pid = process.pid
    _reaped.discard(pid)
    for sent in [entry for entry in _signals if entry[0] == pid]:
        _signals.discard(sent)
    handles.register(process, "process", pool.place, owned=owned)
    _children[pid] = (name, handles.of(process), pool)
    if owned:
        _remember(process)
    events.write(
        "child-started",
        child=pid,
        place=places.within(pool.place, pool.message),
        target=name,
        argv=[],
        owned=owned,
        replaces=pool.has_lost_workers,
    )


def pool_made(frame: FrameType, _: Any) -> None:
    """Remember a Pool, whose work may still be under way at the end."""
    _remember(frame.f_locals["self"])


def manager_thread(frame: FrameType, _: Any) -> None:
    """Remember the thread that manages an executor."""
    _remember(frame.f_locals["self"])


def _remember(owner: Any) -> None:
    try:
        _owners.append(weakref.ref(owner))
    except TypeError:
        pass


_TERMINATED = ("TERMINATE", 2)
"""The state of a Pool that was terminated; that of billiard is a number."""


def is_busy() -> bool:
    """Tell whether work that was handed out in this process may still fail."""
    return any(_may_fail(reference()) for reference in _owners)


def _may_fail(owner: Any) -> bool:
    try:
        if owner is None:
            return False
        if hasattr(owner, "pending_work_items"):  # the thread of an executor
            items = list(owner.pending_work_items.values())
            return owner.is_alive() and (
                any(not item.future.done() for item in items) or _has_result(owner)
            )
        if hasattr(owner, "_cache"):  # a Pool
            return (
                bool(owner._cache)
                and owner._state not in _TERMINATED
                and any(worker.exitcode is None for worker in owner._pool)
            )
        # A daemon process ends with the page, whatever it does.
        # Whoever waited for it without multiprocessing has its exit code.
        return (
            not owner.daemon
            and owner._popen is not None
            and owner.is_alive()
            and not ends_by_itself(owner._popen.pid)
        )
    except Exception:
        return False


def is_of_pool(result: Any) -> bool:
    """Tell whether a result is of a Pool of which `is_busy` tells whether its work may fail."""
    cache = getattr(result, "_cache", None)
    return cache is not None and any(
        getattr(reference(), "_cache", None) is cache for reference in _owners
    )


def _has_result(thread: Any) -> bool:
    """Tell whether the thread of an executor has a result in its hands.

    The result is no longer among the executor's tasks, and may not be in its future yet; then come
    the callbacks, which may hand out more work.
    """
    frame = sys._current_frames().get(thread.ident)
    running = set()
    while frame is not None:
        running.add(frame.f_code.co_name)
        frame = frame.f_back
    return bool(running) and running.isdisjoint(RESULT_READERS)


def wait_for_dropped() -> None:
    """Wait a moment for work whose handle nobody has, so that it fails in the test it is of."""
    # A suite may have made thousands, and this is asked after each test.
    for gone in [reference for reference in _owners if reference() is None]:
        _owners.remove(gone)
    dropped: set[Callable[[], Any]] = set()
    # The thread of an executor may hold one for a moment.
    for _ in range(_LOOKS):
        counted = [pair for owner in _owners for pair in _counted(_under_way(owner()))]
        dropped |= {handle for handle, count in counted if count <= _KEPT_ONCE}
        if len(dropped) == len(counted):
            break
        _sleep(_POLL)
    dropped -= _awaited
    _awaited.update(dropped)
    deadline = events.Kept.monotonic() + _DROPPED_WITHIN
    while any(handle() is not None for handle in dropped) and events.Kept.monotonic() < deadline:
        _sleep(_POLL)
    _awaited.intersection_update([handle for handle in _awaited if handle() is not None])


def _under_way(owner: Any) -> list[Any]:
    """Return the handles of the work that a Pool, or the thread of an executor, has under way."""
    if not _may_fail(owner):
        return []
    if hasattr(owner, "pending_work_items"):
        return [item.future for item in list(owner.pending_work_items.values())]
    return list(getattr(owner, "_cache", {}).values())


def _counted(handles: list[Any]) -> list[tuple[Callable[[], Any], int]]:
    """Return a weak reference to each handle, and how many references keep it alive."""
    counted: list[tuple[Callable[[], Any], int]] = []
    while handles:
        handle = handles.pop()  # so that it is not kept by the list
        counted.append((weakref.ref(handle), sys.getrefcount(handle)))
    return counted


def _count_of_one_keeper() -> int:
    keeper = [_Pool()]
    return _counted(keeper.copy())[0][1]


_KEPT_ONCE = _count_of_one_keeper()
"""What is counted for a handle that only its executor keeps."""


# --- ended on purpose -----------------------------------------------------------------------------


def watch_signals(module: Any) -> None:
    """Note each signal to another process, whichever library or page sends it."""
    me = os.getpid

    def watched(real: Any, is_group: bool) -> Any:
        def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
            try:
                _signal_sent(args, is_group, me())
                return real(*args, **kwargs)
            except BaseException as exc:
                return frameless.raise_later(cls, exc)

        return frameless.wrapper(real, __new__)

    frameless.replace(module, "kill", watched(module.kill, False))
    if hasattr(module, "killpg"):
        frameless.replace(module, "killpg", watched(module.killpg, True))


def watch_exit(module: Any) -> None:
    """Have a program tell what nobody looked at also where it ends at once, by `os._exit`."""
    real = module._exit
    tell_at_once = events.guarded(tell, "the end of a program")

    def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
        if places.is_program():
            tell_at_once()
        try:
            return real(*args, **kwargs)
        except BaseException as exc:
            return frameless.raise_later(cls, exc)

    frameless.replace(module, "_exit", frameless.wrapper(real, __new__))


def _signal_sent(args: tuple[Any, ...], is_group: bool, me: int) -> None:
    try:
        target, number = (int(arg) for arg in args)
        if number == 0 or (target == me and not is_group) or (target, number) in _signals:
            return
        if target > 0 and not is_group and ends_by_itself(target):
            return
        _signals.add((target, number))
        is_group = is_group or target <= 0
        owned = places.reader_of(sys._getframe(2)) is not None
        _write_signal(abs(target), number, is_group=is_group, owned=owned)
        for child in _members_of(abs(target)) - {me} if is_group else ():
            _write_signal(child, number, owned=owned)
    except Exception:
        return  # what os.kill says of such arguments, it says itself


def _write_signal(child: int, number: int, *, owned: bool, is_group: bool = False) -> None:
    events.write("signal-sent", child=child, is_group=is_group, signal=number, owned=owned)


def _members_of(group: int) -> set[int]:
    """Return the processes of a group, where the system tells; they may have joined it late."""
    found = set()
    try:
        for name in _listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), _open(f"/proc/{name}/stat", "rb") as file:
                    fields = bytes(file.read()).rpartition(b") ")[2].split()
                    if fields[0] != b"Z" and int(fields[2]) == (group or os.getpgrp()):
                        found.add(int(name))
    except OSError:
        pass  # no such folder on macOS and Windows
    return found


def ends_by_itself(pid: int) -> bool:
    """Tell whether a process has ended already, or is about to, where the system can tell.

    Its connections close before it is a zombie: who asks it to end because of that comes late.
    """
    try:
        with _open(f"/proc/{pid}/stat", "rb") as file:
            fields = bytes(file.read()).rpartition(b") ")[2].split()
        return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _EXITING)
    except OSError:  # nobody waits for it any more, or a system without such files
        return events.exists("/proc/self/stat")


def process_asked_to_end(frame: FrameType, _: Any) -> None:
    """Note a process that its library has asked to end, and now waits for."""
    pid = frame.f_locals["self"].pid
    if pid and (pid, 15) not in _signals and not ends_by_itself(pid):
        _signals.add((pid, 15))
        _write_signal(pid, 15, owned=False)


# --- ended by itself ------------------------------------------------------------------------------


def child_polled(frame: FrameType, exitcode: int | None) -> None:
    """Write that a child did not exit with 0, the first time that its parent learns of it."""
    popen: Any = frame.f_locals["self"]
    if exitcode and popen.pid not in _reaped:
        _reaped.add(popen.pid)
        target, handle, pool = _children.get(popen.pid, (None, None, _Pool()))
        pool.has_lost_workers = True
        handles.exited(handle, exitcode, popen.pid)
        events.write("exited", child=popen.pid, exitcode=exitcode, target=target)


def answer_missing(variables: str) -> monitor.Handler:
    """Make the handler for what sends a message to a process, and waits for the answer.

    Parameters
    ----------
    variables
        Of that function: the one with the process, and the one with the message.
    """
    process, message = variables.split()

    def handler(frame: FrameType, _: Any) -> bool:
        error = sys.exc_info()[1]
        pid = frame.f_locals[process].pid if error is not None else 0
        # One that its library ends, because nobody waits any more, has not ended by itself.
        if pid and pid not in _reaped and ends_by_itself(pid):
            _reaped.add(pid)
            number = messages.fingerprint(frame.f_locals[message])
            fields = {"is_loading": False, "fingerprint": number, "globals": []}
            events.write("ended-at-work", child=pid, **fields)
        return error is not None

    return handler


def pool_broken(frame: FrameType, _: Any) -> None:
    """Write that an executor gave up, with the work that was under way."""
    here = frame.f_locals
    manager: Any = here["self"]
    # Asked to kill its workers, loky's thread may stumble over a future that was cancelled before.
    if getattr(getattr(manager, "executor_flags", None), "kill_workers", False):
        return
    reason = here.get("bpe")
    processes = dict(manager.processes or {})
    events.write(
        "pool-broken",
        executor=str(type(manager).__module__),
        pids=list(processes),
        ended=[pid for pid, process in processes.items() if _has_ended(process)],
        doomed=work.doomed_places(manager.pending_work_items),
        message=events.message_of(reason) if isinstance(reason, BaseException) else "",
    )


def _has_ended(process: Any) -> bool:
    """Tell whether a child has ended, and leave it to its parent to find out."""
    import select

    return bool(select.select([process.sentinel], [], [], 0)[0])


def exitcode_read(frame: FrameType, code: int | None) -> None:
    """Note that somebody asked how a process ended."""
    caller = frame.f_back
    if code and caller is not None and _is_for_reader(caller):
        handles.asked(handles.of(frame.f_locals["self"]))


def process_closed(frame: FrameType, _: Any) -> None:
    """Learn how a process ended before it forgets its exit code."""
    popen = getattr(frame.f_locals["self"], "_popen", None)
    if popen is not None:
        popen.poll()


def process_ends(_frame: FrameType, _: Any) -> None:
    """Tell what nobody looked at, before `multiprocessing` ends what this process started.

    A program does not wait for a Pool: work under way gets a moment to fail where it can be seen.
    """
    if places.is_program():
        deadline = events.Kept.monotonic() + PATIENCE
        while is_busy() and events.Kept.monotonic() < deadline:
            _sleep(0.02)
    tell()


def error_printed(frame: FrameType, _: Any) -> None:
    """Write which error ended this process of `multiprocessing`."""
    caller = frame.f_back
    if caller is not None and places.kind(caller) == places.END:
        _raised("process", sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1], 0)


def error_logged(frame: FrameType, _: Any) -> None:
    """Write which error in its initializer ended this worker of an executor.

    The threads of an executor log errors in the same way: no process ends, and the futures know.
    """
    import threading

    caller = frame.f_back
    if (
        caller is not None
        and places.kind(caller) == places.CARRIER
        and caller.f_locals.get("initializer") is not None
        and threading.current_thread() is threading.main_thread()
    ):
        _raised("initializer", sys.exc_info()[1], 0)


def initializer_error_kept(_frame: FrameType, _: Any) -> bool:
    """Write which error in its initializer a library catches before it ends this worker.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that handle an exception are.
    """
    error = sys.exc_info()[1]
    _raised("initializer", error, 0)
    return error is not None


def watch_service_threads(threading: Any) -> None:
    """Notice an error that ends a thread which serves an executor: results are lost with it."""
    if not hasattr(sys, "monitoring"):
        from workercheck.recorder import monitor311

        monitor311.before_excepthook(threading, _thread_ends)
        return
    maker = threading._make_invoke_excepthook.__code__
    inner = [c for c in maker.co_consts if getattr(c, "co_name", "") == "invoke_excepthook"]
    if inner:
        monitor.observe(inner[0], "start", _thread_ends)


def _thread_ends(_frame: FrameType, _: Any) -> None:
    error = sys.exc_info()[1]
    place = _place_of_callback(error)
    if place:
        _raised("service-thread", error, place)
        return
    threading = sys.modules["threading"]
    if not hasattr(threading.excepthook, "__globals__"):  # nobody's own, which would be told
        handles.lost(error)
        work.thread_failed(threading.current_thread(), error)


def callback_error_kept(_frame: FrameType, _: Any) -> bool:
    """Write which error of a callback an executor took for one of its own, and kept to itself.

    Returns
    -------
    bool
        Whether the line is worth another call: only lines that handle an exception are.
    """
    error = sys.exc_info()[1]
    place = _place_of_callback(error)
    if place:
        _raised("callback", error, place)
    return error is not None


def _place_of_callback(error: BaseException | None) -> int:
    """Return the place of the result whose callback raised an error, 0 where none did."""
    tb = error.__traceback__ if error is not None else None
    while tb is not None and places.kind(tb.tb_frame) != places.READER:
        # The method that hands a result out is on the stack, and calls what raised.
        if places.kind(tb.tb_frame) == places.CARRIER:
            place = handles.place_of(tb.tb_frame.f_locals.get("self"))
            if place:
                return place
        tb = tb.tb_next
    return 0


def callback_error_logged(frame: FrameType, _: Any) -> None:
    """Note that a callback of a future raised the failure of its work, which is only logged."""
    caller = frame.f_back
    if caller is not None and caller.f_code.co_name in ("_invoke_callbacks", "add_done_callback"):
        handles.lost(sys.exc_info()[1])


def _raised(what: str, error: BaseException | None, place: int) -> None:
    if error is None:
        return
    tb = error.__traceback__
    names = []
    while tb is not None:
        name = getattr(tb.tb_frame.f_code, "co_qualname", tb.tb_frame.f_code.co_name)
        names.append((places.kind(tb.tb_frame), f"{tb.tb_frame.f_globals.get('__name__')}.{name}"))
        if what == "process" and _is_in_initializer(tb, error):
            what = "initializer"
        tb = tb.tb_next
    own = [name for kind, name in names if kind == places.READER]
    events.write(
        "raised",
        what=what,
        place=place,
        exception=events.qualified(type(error)) or "",
        message=events.message_of(error),
        function=events.text(own[0])[:300] if own else None,
    )


def _is_in_initializer(tb: Any, error: BaseException) -> bool:
    """Tell whether an error comes from the initializer of a Pool; it catches those of tasks."""
    initializer = tb.tb_frame.f_locals.get("initializer")
    if initializer is None or places.kind(tb.tb_frame) != places.CARRIER:
        return False
    code = getattr(initializer, "__code__", None)
    if tb.tb_next is None:  # written in C
        return code is None and isinstance(error, Exception)
    return tb.tb_next.tb_frame.f_code is code


# --- the end --------------------------------------------------------------------------------------


def tell() -> None:
    """Write what failed in this process without anybody looking at it."""
    for handle in handles.processes():
        process = handle.thing()
        popen = getattr(process, "_popen", None)
        if popen is not None:
            popen.poll()
    handles.tell()
    asynchronous.tell()
    keyed.tell()


def forget() -> None:
    """Begin anew in a forked child."""
    _owners.clear()
    _children.clear()
    _starting.clear()
    _pools.clear()
    _reaped.clear()
    _signals.clear()
