"""Watch this process, from the start of its interpreter on.

``workercheck.pth`` starts this module in each interpreter of a run, before anything imports
`pickle`. As soon as ``_pickle`` is there, its functions are wrapped, so whatever binds them later
(`multiprocessing`, loky, joblib, distributed, …) is watched. The rest of the recorder is imported
with the first module that carries work, because most processes of a run never import one.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter. Nothing here may raise, print, or leave a frame in a traceback.
"""

import os
import sys

from workercheck.recorder import events, files

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_CARRIERS = ("asyncio", "concurrent.futures", "multiprocessing", "subprocess")
"""Modules whose arrival brings the rest of the recorder: what carries work needs one of them."""

_TOOLS = (5, 4, 3)
"""Numbers of `sys.monitoring`, the one that nothing else uses first."""

_is_complete = False


def start() -> None:
    """Watch this interpreter. Idempotent."""
    if events.folder:
        return
    events.folder = os.environ.get(events.ENV, "")
    if not events.folder:
        return
    try:
        files.start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
        _wait()
        # Not for what the kernel starts.
        question = os.environ.pop(events.QUESTION, "")
        if question:
            from workercheck.recorder import shutdown

            shutdown.listen(question)
    except Exception as exc:
        events.failed("the start of the recorder", exc)
        return
    _say_started(forked=False)


def _wait() -> None:
    """Wait for what is watched to be imported: importing it here would cost more than all else."""
    monitoring: Any = getattr(sys, "monitoring", None)
    free = [tool for tool in _TOOLS if monitoring and monitoring.get_tool(tool) is None]
    if not free or "_pickle" in sys.modules or any(name in sys.modules for name in _CARRIERS):
        _complete()
        return
    tool = free[0]
    start, returned = monitoring.events.PY_START, monitoring.events.PY_RETURN
    watched: list[CodeType] = []

    def watch(function: "Any", moments: int) -> None:
        watched.append(function.__code__)
        monitoring.set_local_events(tool, function.__code__, moments)

    def begins(_code: "CodeType", _offset: int) -> None:
        files.begins(sys._getframe(1))

    def arrived(_code: "CodeType", _offset: int, module: "Any") -> None:
        # Not asked of the module: one of `importlib.util.LazyLoader` would be executed for it.
        name = sys._getframe(1).f_locals["spec"].name
        if name == "_pickle":
            _watch_pickle(module)
        elif name == "runpy":
            watch(module._get_code_from_file, start)
        elif name in _CARRIERS:
            for code in watched:
                monitoring.set_local_events(tool, code, 0)
            for moment in (start, returned):
                monitoring.register_callback(tool, moment, None)
            monitoring.free_tool_id(tool)
            _complete()

    monitoring.use_tool_id(tool, "workercheck")
    monitoring.register_callback(tool, start, begins)
    monitoring.register_callback(tool, returned, arrived)
    for owner, name in files.loaders():
        watch(getattr(owner, name), start | returned if name == "_load_unlocked" else start)


def _watch_pickle(module: "Any") -> None:
    try:
        from workercheck.recorder import messages

        messages.watch_pickle(module)
    except Exception as exc:
        events.failed("pickle", exc)


def _complete() -> None:
    """Watch the functions of every library that is here, and of those that come."""
    global _is_complete
    if _is_complete:
        return
    _is_complete = True
    try:
        from workercheck.recorder import roles

        roles.start()
    except Exception as exc:
        events.failed("the functions of libraries", exc)


def _say_started(*, forked: bool) -> None:
    events.write(
        "process-started",
        ppid=os.getppid(),
        group=os.getpgrp() if hasattr(os, "getpgrp") else 0,
        argv=[events.text(word)[:200] for word in sys.orig_argv[: events.WORDS]],
        python=sys.version.split()[0],
        executable=sys.executable or "",
        forked=forked,
    )


def _before_fork() -> None:
    messages: Any = sys.modules.get("workercheck.recorder.messages")
    if messages is not None:
        events.guarded(messages.import_rest, "the imports before a fork")()


def _after_fork() -> None:
    events.forked = True
    roles: Any = sys.modules.get("workercheck.recorder.roles")
    if roles is not None:
        events.guarded(roles.forget, "a forked process")()
    _say_started(forked=True)
