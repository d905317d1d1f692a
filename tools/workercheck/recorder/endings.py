"""Processes: who started them, which ended by themselves, and what the end of one tells.

Each function is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import contextlib
import sys
import weakref

from workercheck.libraries import FOR_READER, MODULES
from workercheck.recorder import (
    asynchronous,
    behalf,
    events,
    frameless,
    frames,
    handles,
    keyed,
    messages,
    monitor,
    numbered,
    places,
    sent_later,
    signals,
    this_process,
    waiting,
)

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_id = events.identity


class _Pool:
    """The workers that read one queue, or a process that reads none."""

    number = 0
    """By which the runs of its work are known, 0 for a process that reads no queue."""

    def __init__(self, place: int = 0, message: int = 0) -> None:
        self.place = place
        """Where the first of them was started."""
        self.message = message
        """What this process worked on then, 0 in one that is no worker."""
        self.has_lost_workers = False


_children: dict[int, tuple[str | None, handles.Handle | None, _Pool]] = {}
"""By pid: what a process runs, which `start` makes it forget, its handle, and its pool."""
_starting: dict[int, tuple[str | None, bool, _Pool]] = {}
"""By the id of a process that is being started: target, whether it is the reader's, its pool."""
_pools: weakref.WeakKeyDictionary[Any, _Pool] = weakref.WeakKeyDictionary()
"""By the queue of an executor's workers."""
_reaped: set[int] = set()


# --- started --------------------------------------------------------------------------------------


def process_starts(frame: FrameType, _: Any) -> None:
    """Note where a process is started, and what it will run."""
    process: Any = frame.f_locals["self"]
    target = events.attribute(process, "_target")
    arguments = events.attribute(process, "_args") or ()
    name = events.qualified(target) or events.qualified(type(process))
    # The reader may run a library's function, such as the `get` of a Queue, in a process.
    of_library = (name or "").startswith(MODULES) and _is_of_library(frame.f_back)
    # The first argument of a process for one call is the function, which other calls share.
    queue = next((a for a in arguments[:1] if of_library and not callable(a)), None)
    owned = behalf.is_held_by_reader(frame.f_back)
    pool = _pool_of(queue)
    if pool is None:
        executor = frames.executor_behind(frame)
        what = type(process) if target is None else target
        place = places.place(frame.f_back, executor, what, arguments)
        pool = _Pool(place, messages.loaded())
        if queue is not None:
            with contextlib.suppress(TypeError):
                _pools[queue] = pool
                pool.number = numbered.pool_of(queue).number
    _starting[_id(process)] = (name, owned and not of_library, pool)


def _is_of_library(frame: FrameType | None) -> bool:
    """Tell whether a library runs functions of its own in the processes that a frame starts."""
    return frame is not None and frames.kind(frame) == frames.CARRIER and not _is_for_reader(frame)


def _is_for_reader(frame: FrameType) -> bool:
    """Tell whether who looks at a process looks for the reader."""
    return (
        frames.kind(frame) in (frames.READER, frames.OTHER)
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
    signals.forget_process(pid)
    handles.register(process, "process", pool.place, owned=owned)
    _children[pid] = (name, handles.of(process), pool)
    if owned:
        waiting.remember(process)
    events.write(
        "child-started",
        child=pid,
        place=places.within(pool.place, pool.message),
        target=name,
        argv=[],
        owned=owned,
        pool=pool.number,
        replaces=pool.has_lost_workers,
    )


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
        if pid and pid not in _reaped and signals.ends_by_itself(pid):
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
        doomed=sent_later.doomed_places(manager.pending_work_items),
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
        process: Any = frame.f_locals["self"]
        handles.asked(handles.of(process))
        if code < 0:
            events.write("death-seen", child=process.pid)


def process_closed(frame: FrameType, _: Any) -> None:
    """Learn how a process ended before it forgets its exit code."""
    popen = getattr(frame.f_locals["self"], "_popen", None)
    if popen is not None:
        popen.poll()


# --- the end --------------------------------------------------------------------------------------


def watch_exit(module: Any) -> None:
    """Have a program tell what nobody looked at also where it ends at once, by `os._exit`."""
    real = module._exit
    tell_at_once = events.guarded(tell, "the end of a program")

    def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
        if this_process.is_program():
            tell_at_once()
        try:
            return real(*args, **kwargs)
        except BaseException as exc:
            return frameless.raise_later(cls, exc)

    frameless.replace(module, "_exit", frameless.wrapper(real, __new__))


def process_ends(_frame: FrameType, _: Any) -> None:
    """Tell what nobody looked at, before `multiprocessing` ends what this process started.

    A program does not wait for a Pool: work under way gets a moment to fail where it can be seen.
    """
    if this_process.is_program():
        waiting.wait_for_program()
    tell()


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
    _children.clear()
    _starting.clear()
    _pools.clear()
    _reaped.clear()
