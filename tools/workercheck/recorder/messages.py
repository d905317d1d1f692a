"""Watch every message between processes where its bytes are made, and where they are loaded.

The fingerprint of the bytes is noted at both ends: it joins a load that failed to the code that
handed the work out, through whatever carried the message. What a process loads and has not yet
answered is what it works on.

Only the standard library is imported, and as little of it as possible. Nothing here may raise.
"""

import sys
from _thread import _count as _count_threads
from _thread import get_ident as _get_ident
from binascii import crc32 as _crc32

from workercheck.recorder import events, frameless

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

# As in `workercheck.recorder.mapped`, which a process that carries no message never imports.
_IDLE, _LOADING, _WORKING, _REPLY = 0, 1, 2, 1 << 32
_SHORT = 4080
"""Bytes of a message that is kept whole while it is loaded."""

_id = events.identity
_getframe = sys._getframe
_Kept = events.Kept
_Builtin = type(len)
_BUFFERS = (bytes, bytearray, memoryview)
_FOR_TRACEBACKS = ("_colorize", "ast", "unicodedata", "_suggestions")
"""What `traceback` imports when it formats an error, and some errors only."""

_carriers: "dict[int, dict[str, Any]]" = {}
"""The globals of modules each function of which carries messages, by their id."""
_carries: "dict[int, bool]" = {}
"""By the id of the code of another function: whether it carries messages.

Not asked where the module tells: the hook that watches files is called for each code that is read
from a frame.
"""
_kept: "list[CodeType]" = []
"""Those codes, so that no other code gets the same id."""
_failed: "set[int]" = set()
"""The fingerprints of messages that could not be loaded here."""
_FAILED_LIMIT = 1000
_wrappers: "set[CodeType]" = set()
"""The code of wrappers, by which a message within a message is known."""
_inner: "tuple[BaseException, dict[str, Any]] | None" = None
"""The failure of a message within the one that is being loaded."""
_last_failed = 0
"""The id of the latest error of a message that could not be made, while it is handled."""
_answered = 0
"""The fingerprint of what the object answers that a queue is sending, 0 where it is no answer."""
_is_ready = False
_is_worker: "bool | None" = None
"""Whether this process may work for another one, None where that is not known yet."""
_handles: "Any" = None
_frames: "Any" = None
_places: "Any" = None
_mapped: "Any" = None
_pack_doing: "Any" = None
_pack_record: "Any" = None
_numbered: "dict[type, bool]" = {}
"""The classes of messages that carry the number of their work, and whether that is the result."""
_own = 0
"""What all such messages that this process loads have in common, see `mapped.numbered`."""
_loop = 0
"""The thread that loads such messages, one after the other, in a worker."""
_loaded = 0
"""The fingerprint of the message that was loaded last, or the number of its work.

Of one that is being loaded, it is computed when somebody asks: see `_loading`."""
_loading: "Any" = None
"""A short message while it is being loaded."""
_of_threads: "dict[int, int]" = {}
"""By thread: the fingerprint of what it works on, where that is not the message loaded last."""
_ring: "Any" = None
_offsets: "Any" = None
"""The mapped bytes for the messages that this process sends, and where each goes next."""
_doing: "Any" = None
"""The mapped bytes that tell what this process does; only those of a worker are kept up."""


def watch_pickle(module: "Any") -> None:
    """Watch the functions of ``_pickle``, which `pickle` binds next."""
    for name in ("load", "loads"):
        if isinstance(getattr(module, name), _Builtin):
            setattr(module, name, watched_load(getattr(module, name)))
    if isinstance(module.dumps, _Builtin):
        module.dumps = watched_dump(module.dumps, is_plain=True)


def watch_pickle_now() -> None:
    """Watch the functions of ``_pickle``, imported now if nothing has imported it yet."""
    import _pickle

    watch_pickle(_pickle)


def watch_dill(module: "Any") -> None:
    """Watch the loads of dill, which multiprocess uses instead of `pickle`'s."""
    module.loads = watched_load(module.loads)


def watch_numbered(module: "Any", task: str, result: str) -> None:
    """Know the messages of an executor that carry the number of their work, by their classes."""
    for name, is_result in ((task, False), (result, True)):
        cls = getattr(module, name, None)
        if isinstance(cls, type):
            _numbered[cls] = is_result


def watch_dumps(module: "Any", names: "tuple[str, ...]") -> None:
    """Watch functions and class methods of a library that make a message."""
    for path in names:
        owner, _, name = path.rpartition(".")
        holder = getattr(module, owner, None) if owner else module
        function = vars(holder).get(name) if holder is not None else None
        if isinstance(function, classmethod):
            setattr(holder, name, classmethod(watched_dump(function.__func__, at=1)))
        elif callable(function) and not isinstance(function, type):
            setattr(holder, name, watched_dump(function))


# The two wrappers run for each message: what they do is written out in them, because each call of
# a function would cost as much as all the rest.


def watched_load(real: "Any") -> type:
    """Wrap ``_pickle.load``, ``_pickle.loads`` or a function like them."""

    def __new__(cls: type, /, *args: "Any", **kwargs: "Any") -> "Any":
        global _loaded, _loading, _loop
        caller: FrameType | None = None
        carries: bool | None = None
        if _is_worker is False:  # only failed loads matter
            try:
                result = real(*args, **kwargs)
            except BaseException as exc:
                caller, is_message = _caller()
                if is_message:
                    _load_failed(exc, caller, _buffered(args))
                return frameless.raise_later(cls, exc)
            if _failed:
                _look_for_retry(args)
            return result
        doing = _doing
        # The loop of a worker that has nothing to do loads the next task: who calls is only asked
        # where it turns out to be something else.
        is_next = _loop == _get_ident() and doing[0] == _IDLE
        if not is_next:
            try:
                caller = _getframe(1)
                carries = _id(caller.f_globals) in _carriers or _carries.get(_id(caller.f_code))
                if carries is None:
                    carries = _classify(caller)
            except ValueError:
                carries = _is_called_from_c()
            if not carries:
                try:
                    return real(*args, **kwargs)
                except BaseException as exc:
                    return frameless.raise_later(cls, exc)
            doing = _doing
            if (  # no worker; a message within a message, or within a task
                doing is None
                or doing[0] == _LOADING
                or (doing[0] == _WORKING and not _frames.is_machinery(caller))
            ):
                try:
                    result = real(*args, **kwargs)
                except BaseException as exc:
                    _load_failed(exc, caller, _buffered(args))
                    return frameless.raise_later(cls, exc)
                if _failed:
                    _look_for_retry(args)
                return result
        message = _buffered(args)
        _loaded = 0
        if message is None:
            _pack_doing(doing, 0, _LOADING, 0)
        elif len(message) <= _SHORT:
            doing[16 : 16 + len(message)] = _loading = message
            _pack_doing(doing, 0, _LOADING, len(message))
        else:
            _loaded = _mapped.begin_long(doing, message)
        try:
            result = real(*args, **kwargs)
        except BaseException as exc:
            doing[0] = _IDLE
            if is_next:
                caller, carries = _caller()
            if carries:
                _load_failed(exc, caller, message)
                _loaded = _known_by(message, caller)
            _loading = None
            return frameless.raise_later(cls, exc)
        _loading = None
        kind = type(result)
        # A class with a metaclass of the reader's need not be hashable.
        if type(kind) is type and kind in _numbered:  # only the loop of a worker loads these
            _loaded = result.work_id << 32 | _own
            doing[0] = _WORKING
            if not is_next:
                _loop = _get_ident()
        else:
            if is_next:
                caller, carries = _caller()
                if not carries:
                    doing[0] = _IDLE
                    _loaded = 0
                    return result
            if message is not None and len(message) <= _SHORT:
                _loaded = _crc32(message) << 32 | len(message) or 1
            # What ends a worker, or has no answer, is no work.
            if result is None or message is None or not _frames.is_machinery(caller):
                doing[0] = _IDLE
            else:
                doing[0] = _WORKING
        if message is None or b"__main__" in (
            message if type(message) is bytes else bytes(message[:65536])
        ):
            _look_for_wrong_names(caller or _caller()[0], message, result)
        if _failed:
            _look_for_retry(args)
        return result

    _wrappers.add(__new__.__code__)
    return frameless.wrapper(real, __new__)


def watched_dump(real: "Any", is_plain: bool = False, at: int = 0) -> type:
    """Wrap a function that returns a message, or writes one into the argument after the object.

    Parameters
    ----------
    real
        The function.
    is_plain
        Whether it is `pickle.dumps` itself, which some libraries only try first.
    at
        Which of its arguments is the object.
    """

    def __new__(cls: type, /, *args: "Any", **kwargs: "Any") -> "Any":
        caller: FrameType | None
        thing = args[at] if len(args) > at else None
        kind = type(thing)
        is_result = _numbered.get(kind) if type(kind) is type else None
        if is_result is not None:
            try:
                result = real(*args, **kwargs)
            except BaseException as exc:
                caller, is_message = _caller()
                if is_message:
                    _dump_failed(exc, caller, thing, is_plain)
                return frameless.raise_later(cls, exc)
            if is_result and _doing is not None:
                _task_answered()
            return result
        try:
            caller = _getframe(1)
            carries = _id(caller.f_globals) in _carriers or _carries.get(_id(caller.f_code))
            if carries is None:
                carries = _classify(caller)
        except ValueError:
            carries, caller = _is_called_from_c(), None
        try:
            result = real(*args, **kwargs)
        except BaseException as exc:
            if carries:
                _dump_failed(exc, caller, thing, is_plain)
            return frameless.raise_later(cls, exc)
        if carries:
            try:
                if result is not None:
                    _note_sent(result, caller, thing)
                # Written into a file, of which no other function makes the message.
                elif hasattr(args[at + 1], "getvalue") and not _is_nested(caller):
                    _note_sent(args[at + 1].getvalue(), caller, thing)
            except Exception as exc:
                events.failed("a message", exc)
        return result

    _wrappers.add(__new__.__code__)
    return frameless.wrapper(real, __new__)


def message_made(variable: str) -> "Any":
    """Make the handler for what returns a message that it made of the object in *variable*."""

    def handler(frame: "FrameType", result: "Any") -> None:
        _get_ready()
        _note_sent(result, frame.f_back, frame.f_locals.get(variable))

    return handler


def message_written(variable: str) -> "Any":
    """Make the handler for what writes the message for ``obj`` into the buffer in *variable*."""

    def handler(frame: "FrameType", _: "Any") -> None:
        _get_ready()
        here = frame.f_locals
        _note_sent(here[variable].getvalue(), frame, here["obj"])

    return handler


def fingerprint(message: "Any") -> int:
    """Return the fingerprint of a message, 0 where its bytes are not known."""
    _get_ready()
    return int(_mapped.fingerprint(message)) if message is not None else 0


def note(number: int, place: int) -> None:
    """Note that a place has sent something with this fingerprint, in a way of its library's own."""
    _get_ready()
    _pack_record(_ring or _map_ring(), next(_offsets), number, place, loaded(), _Kept.clock_ns())


def loaded() -> int:
    """Return the fingerprint of what this worker, or this thread of it, works on, or its number.

    Most workers load one message after the other, and work on the latest.
    """
    of_thread = _of_threads.get(_get_ident()) if _of_threads else None
    if of_thread is not None:
        return of_thread
    return _loaded if _loading is None else _known_by(_loading, None)


def _known_by(message: "Any", caller: "FrameType | None") -> int:
    # A page may make every import fail, and gets the error of its load all the same.
    try:
        from workercheck.recorder import numbered

        return numbered.known_by(message, caller)
    except Exception as exc:
        events.failed("a message", exc)
        return 0


def answers(number: int) -> None:
    """Note what the object that a queue is about to send answers, 0 where it is no answer."""
    global _answered
    _answered = number


def thread_works_on(number: int) -> None:
    """Note what a thread works on, of a worker that loads messages while others are worked on.

    Parameters
    ----------
    number
        The fingerprint of what its library calls the work, 0 where the work is done.
    """
    if number:
        _of_threads[_get_ident()] = number
    else:
        _of_threads.pop(_get_ident(), None)


def task_begins(_frame: "FrameType", _: "Any") -> None:
    """Note that this worker works on its message, to which it has only said that it has it."""
    if _doing is not None:
        _doing[0] = _WORKING


def task_acknowledged(frame: "FrameType", _: "Any") -> None:
    """Note that this worker works on its message, of which it has told that it has it.

    The answer is a tuple then, with the number 0 before what it says.
    """
    answer = frame.f_locals.get("obj")
    if _doing is not None and type(answer) is tuple and answer[:1] == (0,):
        _doing[0] = _WORKING


def task_done(_frame: "FrameType", _: "Any") -> None:
    """Note that this worker is done with its message."""
    if _doing is not None:
        _doing[0] = _IDLE


def _caller() -> "tuple[FrameType | None, bool]":
    """Return what called the wrapper that calls this, and whether that carries messages."""
    try:
        caller = _getframe(2)
    except ValueError:  # called from C
        return None, True
    carries = _id(caller.f_globals) in _carriers or _carries.get(_id(caller.f_code))
    return caller, _classify(caller) if carries is None else carries


def _classify(frame: "FrameType") -> bool:
    if not _is_or_gets_ready():
        return False
    carries = bool(_frames.carries_messages(frame))
    if carries and _frames.calls_no_tasks(frame):
        _carriers[_id(frame.f_globals)] = frame.f_globals
    else:
        _carries[_id(frame.f_code)] = carries
        _kept.append(frame.f_code)
    if _is_worker and carries and _doing is None:
        _map_doing()
    return carries


def _is_called_from_c() -> bool:
    """Get ready for a message without a caller, as `concurrent.interpreters` sends them."""
    is_ready = _is_or_gets_ready()
    if is_ready and _is_worker and _doing is None:
        _map_doing()
    return is_ready


def _get_ready() -> None:
    """Import the rest, which a process that carries no message never needs."""
    global _is_ready, _is_worker, _handles, _frames, _places, _mapped, _own
    global _pack_doing, _pack_record
    if not _is_ready:
        from workercheck.recorder import frames, handles, mapped, places, this_process

        _handles, _frames, _places, _mapped = handles, frames, places, mapped
        _pack_doing, _pack_record = mapped.pack_doing, mapped.pack_record
        _is_worker = this_process.is_worker() or this_process.is_inner()
        _own = mapped.numbered(0, _Kept.getpid())
        _is_ready = True


def _is_or_gets_ready() -> bool:
    """Get ready, and tell whether that succeeded: a page may make every import fail."""
    try:
        _get_ready()
    except Exception as exc:
        events.failed("messages", exc)
        return False
    return True


def import_rest() -> None:
    """Import whatever this module may need later.

    A child that is forked while another thread imports a module would wait for that thread, which
    it does not have.
    """
    _get_ready()
    import mmap  # noqa: F401
    import pickletools  # noqa: F401
    import traceback  # noqa: F401

    from workercheck.recorder import failure, numbered  # noqa: F401

    if _count_threads():
        for name in _FOR_TRACEBACKS:
            try:
                __import__(name)
            except ImportError:  # not in each version
                continue


def _map_doing() -> None:
    global _doing
    from workercheck.recorder import this_process

    # The end of a process tells nothing of the interpreters within it.
    _doing = bytearray(_mapped.DOING_SIZE) if this_process.is_inner() else _mapped.map_doing()


def forget() -> None:
    """Begin anew in a forked child, which may work for its parent."""
    global _doing, _ring, _inner, _is_worker, _own, _loop
    _doing = _ring = _inner = None
    _loop = 0
    _is_worker = True
    if _is_ready:
        _own = _mapped.numbered(0, _Kept.getpid())
    _of_threads.clear()
    _carriers.clear()
    _carries.clear()
    _kept.clear()


def _buffered(args: "tuple[Any, ...]") -> "Any":
    """Return the whole message that is loaded, None where it comes from a file."""
    if args and type(args[0]) in _BUFFERS:
        return args[0]
    kind = type(args[0]).__name__ if args else ""
    try:
        if kind == "_memoryviewslice":  # Cython's
            return memoryview(args[0])
        return args[0].getvalue() if kind == "BytesIO" else None
    except Exception:
        return None


def _look_for_retry(args: "tuple[Any, ...]") -> None:
    """Notice a message that was loaded at the second try.

    Where a name of ``__main__`` is missing in an interpreter, CPython runs the script that sent the
    message, under this name, and loads the message again.
    """
    if getattr(sys.modules.get("__main__"), "__name__", None) != "<fake __main__>":
        return
    try:
        number = _known_by(_buffered(args), None)
        if number in _failed:
            from workercheck.recorder import this_process

            here = this_process.interpreter()
            events.write("load-retried", interpreter=here, fingerprint=number)
    except Exception as exc:
        events.failed("a load", exc)


def _look_for_wrong_names(caller: "FrameType | None", message: "Any", result: "Any") -> None:
    try:
        if message is not None or _is_of_main(events.attribute(result, "_target")):
            from workercheck.recorder import wrong_names

            wrong_names.look_in(message, result, _loaded, caller)
    except Exception as exc:
        events.failed("a load", exc)


def _is_of_main(target: "Any") -> bool:
    """Tell whether the function of a process is found in this process's ``__main__``."""
    name = events.attribute(target, "__name__")
    return target is not None and vars(sys.modules["__main__"]).get(name) is target


def _is_nested(frame: "FrameType | None") -> bool:
    """Tell whether a message is made or loaded within another one."""
    while frame is not None:
        if frame.f_code in _wrappers:
            caller = frame.f_back
            return caller is not None and bool(
                _id(caller.f_globals) in _carriers or _carries.get(_id(caller.f_code))
            )
        frame = frame.f_back
    return False


def _load_failed(exc: BaseException, caller: "FrameType | None", message: "Any") -> None:
    global _inner
    try:
        if _frames.does_without(caller) or _frames.is_no_message(caller):
            return
        from workercheck.recorder import failure

        # A message within a message fails once for each. The outermost bytes were sent, the
        # innermost say what is wrong; where the outer load goes on, nothing has failed.
        inner, _inner = _inner, None
        if inner is None or inner[0] is not exc:
            inner = (exc, failure.describe(exc, caller, message))
        if _is_nested(caller):
            _inner = inner
            return
        number = _known_by(message, caller)
        if message is not None and len(_failed) < _FAILED_LIMIT:
            _failed.add(number)
        events.write("load-failed", fingerprint=number, **inner[1])
    except Exception as error:
        events.failed("a failed load", error)


def _note_sent(message: "Any", caller: "FrameType | None", thing: "Any") -> None:
    # What an answer answers; for anything else, what it is sent on behalf of.
    worked_on = _loaded if _loading is None else _known_by(_loading, None)
    place, is_answer = _places.sender(caller, thing)
    # What is sent while a message is loaded is a question about it.
    if is_answer and _doing is not None and _doing[0] != _LOADING:
        if _doing[0] == _WORKING:
            place = _REPLY
        _task_answered()
    size = len(message)
    _pack_record(
        _ring or _map_ring(),
        next(_offsets),
        _crc32(message) << 32 | size or 1 if size <= _SHORT else _mapped.fingerprint(message),
        place,
        worked_on,
        _Kept.clock_ns(),
    )


def _task_answered() -> None:
    _doing[0] = _IDLE
    if _handles.untold:  # a worker may be ended without a chance to tell
        events.guarded(_handles.tell_gone, "the end of a task")()


def _map_ring() -> "Any":
    global _ring, _offsets
    _ring, _offsets = _mapped.map_ring(_mapped.SENT)
    return _ring


def not_sent(exc: BaseException, frame: "FrameType", thing: "Any", place: int) -> None:
    """Note that a library pickled something by itself in a function with *frame*, and could not."""
    if _id(exc) != _last_failed and not isinstance(exc, OSError):  # the way is no longer there
        from workercheck.recorder import failure

        fields = failure.describe_unsent(exc, frame, thing)
        place = _places.within(place, loaded())
        events.write("pickle-failed", place=place, reply_to=0, is_result=False, **fields)


def _dump_failed(
    exc: BaseException, caller: "FrameType | None", thing: "Any", is_plain: bool
) -> None:
    global _last_failed
    _last_failed = _id(exc)
    try:
        is_only_tried = is_plain and _frames.falls_back(caller)
        if is_only_tried or _is_nested(caller) or _frames.is_no_message(caller):
            return
        from workercheck.recorder import failure

        answers(0)
        place, is_answer = _places.sender(caller, thing)
        at_work = is_answer and _doing is not None and _doing[0] == _WORKING
        events.write(
            "pickle-failed",
            place=_places.within(place, loaded()),
            reply_to=_loaded if at_work else _answered,
            is_result=is_answer,
            **failure.describe_unsent(exc, caller, thing),
        )
    except Exception as error:
        events.failed("a message that could not be pickled", error)
