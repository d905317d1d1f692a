"""Record, inside a kernel and its workers, every message that could not be unpickled.

``workercheck.pth`` starts this module in each interpreter of a watched page, before anything
imports `pickle`. It replaces ``_pickle.load`` and ``_pickle.loads``, so whatever binds them
later (`multiprocessing`, loky, joblib, distributed, …) is watched, and observes with
`sys.monitoring` (Python 3.12 and later) where work is submitted and where workers end.

Only the standard library is imported, and as little of it as possible: this runs at the start
of every interpreter. Nothing here may raise, print, or leave a frame in a traceback.
"""

import _codecs
import _functools
import _operator
import _pickle
import os
import sys
import time

ENV = "WORKERCHECK_EVIDENCE"
"""The environment variable that names the folder for the evidence, and switches this on."""

EVENTS = "events.jsonl"
INTACT = "intact"
"""A file that is removed when an event could not be written: unlinking works on a full disk."""

FLIGHT_HEADER = 8
FLIGHT_SIZE = 4096

_MESSAGE_LIMIT = 4_000
_TRACEBACK_LIMIT = 12_000
_PICKLE_LIMIT = 1 << 20

_TRANSPORTS = (
    "multiprocessing.",
    "multiprocess.",
    "concurrent.futures.",
    "concurrent.interpreters",
    "loky.",
    "joblib.externals.loky.",
    "distributed.",
    "ipyparallel.",
    "mpi4py.",
)
"""Modules that carry work between processes: what they load is a message."""

_folder = ""
_flight = None
_callers = {}  # id(code) -> (code, whether it belongs to a transport)
_last_failure = None
_real_loads = _pickle.loads


def start():
    """Watch this interpreter. Idempotent."""
    global _folder
    if _folder:
        return
    _folder = os.environ.get(ENV, "")
    if not _folder:
        return
    _pickle.load = _watched(_pickle.load)
    _pickle.loads = _watched(_pickle.loads)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    _hello(forked=False)
    _observe()


def _hello(forked):
    _write(
        "hello",
        ppid=os.getppid(),
        argv=[_text(word)[:200] for word in sys.orig_argv[:8]],
        python=sys.version.split()[0],
        executable=sys.executable,
        forked=forked,
    )


def _after_fork():
    global _flight, _last_failure
    _flight = _last_failure = None
    _submitted.clear()
    _hello(forked=True)


# --- writing ---------------------------------------------------------------------------------


def _text(value):
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _write(event, **fields):
    """Append one event: one line, one write, so that lines of several processes never mix."""
    try:
        import json

        fields = {"event": event, "pid": os.getpid(), "time": time.time(), **fields}
        line = json.dumps(fields).encode("ascii") + b"\n"
        # Opened for each event: a descriptor kept open can be closed by the page, and its
        # number given to a file of the page's own.
        fd = os.open(_folder + "/" + EVENTS, os.O_WRONLY | os.O_APPEND)
        try:
            written = os.write(fd, line)
        finally:
            os.close(fd)
        if written != len(line):
            raise OSError("short write")
    except Exception:
        try:
            os.unlink(_folder + "/" + INTACT)
        except OSError:
            pass


def _open_flight():
    """Map this process's byte that tells whether a load is in flight."""
    global _flight
    try:
        import mmap

        path = _folder + "/flight-%d-%d" % (os.getpid(), time.time_ns())
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


def _watched(real):
    """Wrap ``_pickle.load`` or ``_pickle.loads``.

    The wrapper is a class. Its ``__new__`` does the work and always returns; a failure is raised
    again afterwards by ``__init__``, which is made of C functions only. So no frame of ours
    is in the traceback that the page shows. A class is also no descriptor, hence does not become a
    method in ``ForkingPickler.loads``, and pickles by reference.
    """
    name = real.__name__

    def __new__(cls, /, *args, **kwargs):
        try:
            caller = _getframe(1)
            known = _callers.get(id(caller.f_code)) or _classify(caller)
            transport = known[1]
        except ValueError:  # called from C, as concurrent.interpreters does
            caller, transport = None, True
        if not transport:
            try:
                return real(*args, **kwargs)
            except BaseException as exc:
                return _raise_later(failed, exc)
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
            return _raise_later(failed, exc)

    watched = type(
        name,
        (),
        {
            "__new__": __new__,
            "__module__": "_pickle",
            "__qualname__": name,
            "__doc__": real.__doc__,
            "__slots__": (),
        },
    )
    failed = type(
        name,
        (watched,),
        {"__init__": property(_operator.methodcaller("throw")), "__slots__": ("throw",)},
    )
    return watched


_getframe = sys._getframe
_BUFFERS = (bytes, memoryview)


def _raise_later(failed, exc):
    # The first entry is the frame of __new__.
    exc.__traceback__ = exc.__traceback__.tb_next
    instance = object.__new__(failed)
    instance.throw = _functools.partial(_codecs.lookup_error("strict"), exc)
    return instance


def _classify(frame):
    module = frame.f_globals.get("__name__") or ""
    transport = module.startswith(_TRANSPORTS) or frame.f_code.co_filename.endswith(
        "popen_loky_posix.py"  # runs as __main__
    )
    known = _callers[id(frame.f_code)] = (frame.f_code, transport)
    return known


def _record_failure(exc, caller, args):
    global _last_failure
    try:
        trace = []
        innermost = None
        tb = exc.__traceback__.tb_next
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
        import threading
        import traceback

        stack = []
        frame = caller
        while frame is not None and len(stack) < 16:
            stack.append([frame.f_globals.get("__name__") or "", frame.f_code.co_name])
            frame = frame.f_back
        _write(
            "load-failed",
            stack=stack,
            thread=threading.current_thread().name,
            exception=_qualified(type(exc)),
            message=_message(exc),
            name=_plain(getattr(exc, "name", None)),
            globals=_globals(args),
            raised_in=_qualified_frame(innermost),
            traceback=_text("".join(traceback.format_exception(exc)))[-_TRACEBACK_LIMIT:],
            cell=_cell(),
        )
    except Exception:
        _write(
            "load-failed",
            stack=[],
            thread="",
            exception=type(exc).__name__,
            message="",
            name=None,
            globals=[],
            raised_in=None,
            traceback="",
            cell=None,
        )


def _message(exc):
    try:
        return _text(str(exc))[:_MESSAGE_LIMIT]
    except Exception:
        return "<its message cannot be shown>"


def _plain(value):
    return _text(value)[:200] if type(value) is str else None


def _qualified(thing):
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    if type(module) is not str or type(name) is not str:
        return None
    return _text(name if module == "builtins" else module + "." + name)[:300]


def _qualified_frame(frame):
    if frame is None or frame.f_code.co_filename.startswith("<frozen"):
        return None
    module = frame.f_globals.get("__name__")
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return _text(module + "." + name)[:300] if type(module) is str else _text(name)[:300]


def _globals(args):
    """List the names that the message refers to, in order: ``__main__.sphere``."""
    if not args or not isinstance(args[0], (bytes, bytearray, memoryview)):
        return []
    import pickletools

    return list(names_in(bytes(args[0][:_PICKLE_LIMIT]), pickletools.genops))


def names_in(message, genops):
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
    strings = []
    memo = {}
    seen = set()
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
                yield _text(name)[:300]
                if len(seen) == 40:
                    return
    except Exception:
        return


# --- submissions, and ends of workers ---------------------------------------------------------

_submitted = set()
_owners = []  # weak references to what work was handed to
_targets = {}  # id(process) -> (weak reference, name of its target)
_ended_on_purpose = set()
_reaped_children = set()


def _cell():
    """Return the message id of the cell on whose behalf this code runs, None outside a kernel.

    ipykernel keeps it in a context variable: a task of `asyncio` still knows the cell that
    created it when it runs during a later one.
    """
    try:
        app = sys.modules["ipykernel.kernelapp"].IPKernelApp
        return app.instance().kernel.get_parent("shell")["header"]["msg_id"]
    except Exception:
        return None


def _names(function, depth=3):
    """Name a function and the functions that it wraps or gets as arguments."""
    names = []
    name = _qualified(function)
    if name is not None:
        names.append(name)
    elif not isinstance(function, type):
        names.append(_qualified(type(function)) or "")
    if depth:
        inner = [getattr(function, "func", None), getattr(function, "__wrapped__", None)]
        inner += (getattr(function, "args", None) or ())[:4] if hasattr(function, "func") else ()
        for thing in inner:
            if callable(thing):
                names += _names(thing, depth - 1)
    return names


def _submit(frame, function, *_):
    owner = frame.f_locals.get("self")
    names = _names(frame.f_locals.get(function)) if function else []
    for argument in (frame.f_locals.get("args") or ())[:6]:
        if callable(argument):
            names += _names(argument, 1)
    cell = _cell()
    executor = _qualified(type(owner)) or ""
    key = (cell, executor, *names)
    if key not in _submitted:
        _submitted.add(key)
        _remember(owner)
        _write("submitted", executor=executor, names=names[:12], cell=cell)


def _remember(owner):
    import weakref

    try:
        _owners.append(weakref.ref(owner))
    except TypeError:
        pass


def _process_start(frame, *_):
    process = frame.f_locals.get("self")
    target = getattr(process, "_target", None)
    # start() deletes the target, and the name is wanted when the process ends.
    import weakref

    _targets[id(process)] = (weakref.ref(process), _qualified(target))
    if (_qualified(target) or "").startswith(_TRANSPORTS):
        return  # a worker of an executor, which has said what it was given
    names = _names(target) if target else [_qualified(type(process)) or ""]
    for argument in getattr(process, "_args", ())[:6]:
        if callable(argument):
            names += _names(argument, 1)
    _remember(process)
    _write("submitted", executor="multiprocessing.Process", names=names[:12], cell=_cell())


def _interpreter_submit(frame, function, *_):
    if type(frame.f_locals.get("self")).__name__ == "InterpreterPoolExecutor":
        _submit(frame, function)


def _pool_submit(frame, function, *_):
    if type(frame.f_locals.get("self")).__name__ == "Pool":
        _submit(frame, function)


def _broken(frame, *_):
    manager = frame.f_locals["self"]
    reason = frame.f_locals.get("bpe")
    processes = dict(manager.processes or {})
    ended = {pid for pid, process in processes.items() if _has_ended(process)}
    if not (ended and ended <= _ended_on_purpose):
        _write(
            "pool-broken",
            executor=type(manager).__module__,
            pids=list(processes),
            ended=sorted(ended),
            exception=_qualified(type(reason)) if isinstance(reason, BaseException) else None,
            message=_message(reason) if isinstance(reason, BaseException) else "",
        )
    _ended_on_purpose.update(processes)


def _has_ended(process):
    """Tell whether a child has ended, and leave it to its parent to find out."""
    import select

    return bool(select.select([process.sentinel], [], [], 0)[0])


def _signalled(frame, argument, _):
    child = getattr(frame.f_locals.get(argument), "pid", None)
    if child is not None and child not in _ended_on_purpose:
        _ended_on_purpose.add(child)
        _write("terminated", child=child)


def _reaped(frame, _, exitcode):
    popen = frame.f_locals.get("self")
    if exitcode and popen.pid not in _ended_on_purpose and popen.pid not in _reaped_children:
        _reaped_children.add(popen.pid)
        target = None
        for reference, name in list(_targets.values()):
            if getattr(reference(), "_popen", None) is popen:
                target = name
        _write("exited", child=popen.pid, exitcode=exitcode, target=target)


_EXECUTOR = {
    "ProcessPoolExecutor.submit": ("start", _submit, "fn"),
    "_ExecutorManagerThread.terminate_broken": ("start", _broken, None),
}
_OBSERVED = {
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
        "Popen.poll": ("return", _reaped, None),
        "Popen._send_signal": ("start", _signalled, "self"),
    },
    "multiprocessing.popen_forkserver": {"Popen.poll": ("return", _reaped, None)},
    "loky.backend.popen_loky_posix": {"Popen.poll": ("return", _reaped, None)},
    "loky.backend.utils": {"kill_process_tree": ("start", _signalled, "process")},
    "joblib.externals.loky.backend.popen_loky_posix": {"Popen.poll": ("return", _reaped, None)},
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
_watched_code = {}  # id(code) -> (code, handler, argument)
_tool = None


def _observe():
    """Ask to be called when one of the functions above runs: no wrapper, no frame, no cost else."""
    global _tool
    monitoring = getattr(sys, "monitoring", None)
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


def _on_start(code, _offset):
    _handle(code, None)


def _on_return(code, _offset, value):
    _handle(code, value)


def _handle(code, value):
    try:
        _, handler, argument = _watched_code[id(code)]
        handler(_getframe(2), argument, value)
    except Exception:
        pass


def _module_loaded(_frame, _argument, module):
    functions = _OBSERVED.get(getattr(module, "__name__", None))
    if functions is None:
        return
    monitoring = sys.monitoring
    for path, (moment, handler, argument) in functions.items():
        function = module
        for part in path.split("."):
            function = getattr(function, part, None)
        code = getattr(function, "__code__", None)
        if code is not None:
            _watched_code[id(code)] = (code, handler, argument)
            event = monitoring.events.PY_START if moment == "start" else monitoring.events.PY_RETURN
            monitoring.set_local_events(_tool, code, event)


# --- at the end of a page ---------------------------------------------------------------------


async def closing(patience):
    """Wait for work still under way, then record which modules of its own the page imported.

    Run in the kernel, after the page's last cell.

    Parameters
    ----------
    patience : float
        Seconds that the work gets, at most. It is not waited for its own sake, but for its failure.
    """
    import asyncio

    deadline = time.monotonic() + patience
    while any(map(_is_busy, _owners)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    _write("modules", files=_own_modules())


def _is_busy(reference):
    owner = reference()
    try:
        for attribute in ("_pending_work_items", "_cache"):  # executors; a Pool
            if getattr(owner, attribute, None):
                return True
        return owner is not None and hasattr(owner, "exitcode") and owner.exitcode is None
    except Exception:
        return False


def _own_modules():
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
