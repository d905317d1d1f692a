"""Work that an executor numbers: which numbers were handed out where.

The messages of such an executor carry the number of their work, so that nothing has to be noted
of each message. What is noted is where a run of numbers begins: ten thousand tasks that one
statement hands out are one run, and one record.

Each handler is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import weakref
from weakref import ref as _weak

from workercheck.recorder import (
    behalf,
    events,
    frames,
    handles,
    messages,
    monitor,
    work,
)

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

_MANY = 20_000
"""How many futures of one statement are noted before those that are gone are forgotten."""
_DEPTH = 6
"""How many functions may lie between the load of a result and the thread that manages its pool."""


class _Run:
    """Numbers that follow each other, of work that one statement handed out.

    Two threads may hand out side by side. Each goes on with the run that it has looked at, whatever
    run is the current one by then: a run never gets a number of another one.
    """

    __slots__ = ("first", "following", "work")

    def __init__(self, first: int, work: handles.Work | None) -> None:
        self.first = first
        self.work = work
        """What its futures have in common."""
        self.following = first + 1
        """The number that goes on with it."""


class Pool:
    """The workers of one executor, which read one queue."""

    def __init__(self, number: int) -> None:
        self.number = number
        """From 1 on, 0 for one that is gone."""
        self.run = _Run(-1, None)
        """The current one; before anything was handed out, one that is of no work."""


class _Statement:
    """What the latest work was handed out by: most often, the next comes from there as well.

    Neither its executor nor its function is kept alive.
    """

    def __init__(
        self, executor: Any, function: Any, caller: FrameType, of: handles.Work, pool: Pool
    ) -> None:
        self.executor: Callable[[], Any] = _weak(executor)
        self.function = _reference(function)
        self.code: CodeType = caller.f_code
        self.instruction = caller.f_lasti
        self.cell = behalf.on_behalf(caller)
        self.work = of
        self.pool = pool
        self.futures: list[Callable[[], Any]] = []
        """Of what it has handed out since: `handles.take` has this list."""


_latest: _Statement | None = None
_pools: weakref.WeakKeyDictionary[Any, Pool] = weakref.WeakKeyDictionary()
"""By the queue that its workers read."""
_count = 0
_ring: Any = None
_offsets: Any = None
_mapped: Any = None


def _reference(function: Any) -> Callable[[], Any]:
    try:
        return _weak(function)
    except TypeError:  # of a type without weak references
        return lambda: None


def pool_of(queue: Any) -> Pool:
    """Return the pool whose workers read a queue; an executor that is shut down has none."""
    global _count
    if queue is None:
        return Pool(0)
    pool = _pools.get(queue)
    if pool is None:
        _count += 1
        pool = _pools[queue] = Pool(_count)
    return pool


def submitted(argument: str) -> monitor.Handler:
    """Make the handler for a method that returns the future of the function in *argument*."""

    def handler(frame: FrameType, future: Any) -> None:
        global _latest
        here, caller, latest = frame.f_locals, frame.f_back, _latest
        executor = here["self"]
        if (
            latest is not None
            and caller is not None
            and caller.f_lasti == latest.instruction
            and caller.f_code is latest.code
            and latest.executor() is executor
            and latest.function() is here[argument]
            and latest.work[3] is work.current_call
            and latest.work[4] == messages.loaded()
            and latest.cell == behalf.on_behalf(caller)
        ):
            of, pool, futures = latest.work, latest.pool, latest.futures
            futures.append(_weak(future))
            # Nobody takes from the list of a statement that another thread has replaced.
            if _latest is not latest or future._exception is not None:
                work.handed_out(future, of)
            elif len(futures) > _MANY:
                handles.sort_in()
            number = executor._queue_count - 1
            run = pool.run
            if number == run.following and run.work is of:
                item = executor._pending_work_items.get(number)
                if item is not None and item.future is future:
                    run.following = number + 1
                    return
        else:
            found = work.work_of(frame, future, argument, handler)
            if found is None:
                return
            of, pool = found, pool_of(executor._call_queue)
            # What calls from a library may be called from anywhere.
            if caller is not None and frames.is_reader(caller):
                _latest = _Statement(executor, here.get(argument), caller, of, pool)
                handles.take(_latest.futures, of)
            work.handed_out(future, of)
        _number(executor, future, of, pool)

    return handler


def _number(executor: Any, future: Any, of: handles.Work, pool: Pool) -> None:
    """Note the number of a future that has just been made, where it does not go on with a run."""
    run = pool.run
    number = executor._queue_count - 1
    items = executor._pending_work_items
    item = items.get(number)
    if item is None or item.future is not future:
        # Another thread has handed more out meanwhile, or the work is done, and has no number now.
        found = [number for number, item in list(items.items()) if item.future is future]
        number = found[0] if found else run.following if run.work is not None else number
    known = run.work
    if number != run.following or known is None or known[1] != of[1] or known[4] != of[4]:
        pool.run = run = _Run(number, of)
        _write(pool.number, run)
    run.following = number + 1


def _write(pool: int, run: _Run) -> None:
    """Write where a run of a pool began."""
    global _ring, _offsets, _mapped
    if _ring is None:
        from workercheck.recorder import mapped

        _ring, _offsets = mapped.map_ring(mapped.RUNS)
        _mapped = mapped
    offset = next(_offsets)
    if offset == 0:  # from here on, the ring overwrites runs that still go on
        for other in list(_pools.values()):
            if other.run.work is not None and other.run is not run:
                _pack(offset, other.number, other.run)
                offset = next(_offsets)
    _pack(offset, pool, run)


def _pack(offset: int, pool: int, run: _Run) -> None:
    first = _mapped.numbered(run.first, pool)
    assert run.work is not None
    _, place, _, _, message = run.work
    _mapped.pack_record(_ring, offset, first, place, message, events.Kept.clock_ns())


def known_by(message: Any, frame: FrameType | None) -> int:
    """Return what a message that was loaded here is known by, 0 where its bytes are not known.

    Parameters
    ----------
    message : bytes-like or None
        The message.
    frame
        Of the function of a library that loads it.

    Returns
    -------
    int
        The number of its work, or its fingerprint.
    """
    from workercheck.recorder import failure, mapped

    if message is None:
        return 0
    work_id = failure.work_id_of(message)
    pid = _worker_behind(frame) if work_id is not None else None
    if work_id is None or pid is None:
        return mapped.fingerprint(message)
    return mapped.numbered(work_id, pid)


def _worker_behind(frame: FrameType | None) -> int | None:
    """Return the pid of a worker of the executor a message of which is loaded, None without one."""
    for _ in range(_DEPTH):
        if frame is None:
            break
        manager: Any = frame.f_locals.get("self")
        # Loads the results of all workers of its executor, whose queue has the tasks as well.
        if hasattr(manager, "processes") and hasattr(manager, "pending_work_items"):
            return next(iter(manager.processes or ()), None)
        frame = frame.f_back
    return events.Kept.getpid()


def forget() -> None:
    """Begin anew in a forked child: what it hands out is its own."""
    global _latest, _ring, _count
    _latest = _ring = None
    _count = 0
    _pools.clear()
