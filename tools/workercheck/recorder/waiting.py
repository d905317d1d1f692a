"""Waiting: what was handed out and may still fail when a page, a program or a test ends.

Each handler is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import sys
import time
import weakref

from workercheck.libraries import RESULT_READERS
from workercheck.recorder import events, signals

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

# Kept from before a test suite or a page can replace it.
_sleep = time.sleep

PATIENCE = 10.0
"""Seconds that the work of a program gets to fail at its end, at most."""

_DROPPED_WITHIN = 5.0
"""Seconds that work which nobody can ask for any more gets to fail in the test that dropped it."""
_POLL = 0.005
_LOOKS = 4

_owners: list[Callable[[], Any]] = []
"""Weak references to what may still fail: threads that manage executors, pools, processes."""
_awaited: set[Callable[[], Any]] = set()
"""Weak references to handles that a test has waited for, and that no other test waits for."""


def pool_made(frame: FrameType, _: Any) -> None:
    """Remember a Pool, whose work may still be under way at the end."""
    remember(frame.f_locals["self"])


def manager_thread(frame: FrameType, _: Any) -> None:
    """Remember the thread that manages an executor."""
    remember(frame.f_locals["self"])


def remember(owner: Any) -> None:
    """Note what may still fail: the thread that manages an executor, a Pool or a process."""
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
            and not signals.ends_by_itself(owner._popen.pid)
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


def wait_for_program() -> None:
    """Wait for the work of a program that ends: it gets a moment to fail where it can be seen."""
    deadline = events.Kept.monotonic() + PATIENCE
    while is_busy() and events.Kept.monotonic() < deadline:
        _sleep(0.02)


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


class _Sample:
    """Something that a weak reference can be made to."""


def _count_of_one_keeper() -> int:
    keeper = [_Sample()]
    return _counted(keeper.copy())[0][1]


_KEPT_ONCE = _count_of_one_keeper()
"""What is counted for a handle that only its executor keeps."""


def forget() -> None:
    """Begin anew in a forked child."""
    _owners.clear()
