"""The last words of a kernel: what is left to tell after its last cell.

workercheck asks the kernels that it starts itself. Those of another program are asked by the
recorder in that program, when its kernel manager is about to end them: with its first signal, which
interrupts the workers too, the manager would take the work away that may still fail.

A thread of the recorder waits for the question from the start of the kernel on, in a single system
call that opens a pipe which nobody writes to before. Nothing that a page may change lies between
the question and the answer: neither its event loop and its main thread, nor how its cells are run,
what it may import, and which files it may open.

Only the standard library is imported. Nothing here may raise.
"""

from __future__ import annotations

import _thread
import os
import time

from workercheck.recorder import asynchronous, endings, events, handles, signals, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import FrameType
    from typing import Any

# Kept from before a test suite or a page can replace them.
_open, _read, _write, _close = os.open, os.read, os.write, os.close
_sleep = time.sleep

_POLL = 0.02
_FAILS_WITHIN = 5.0
"""Seconds that work gets of which only its handle is known: it may run for ever."""
_TURNS = 3
"""How often an event loop comes round until a failure that a thread told it is in its task."""
_TURNS_WITHIN = 1.0
"""Seconds after which an event loop that has not come round does not."""
_ANSWERS_WITHIN = 5.0
"""Seconds in which a kernel answers another program, beside what its work gets."""

_NOTEBOOKS = (".ipynb", ".md", ".qmd", ".Rmd", ".rst")
"""Names of files with cells end with these; a program's own files are not among them."""

_PATH_LIMIT = 1000

_is_listening = False


def listen(path: str) -> None:
    """Start the thread that waits for the question.

    Parameters
    ----------
    path : str
        The pipe, or where there are none a file that is empty as long as nobody asks. The question
        is the word with which to answer, and the seconds that work still under way gets. It is not
        waited for its own sake, but for its failure. It is removed when it has been answered.
    """
    global _is_listening
    _is_listening = True
    _thread.start_new_thread(_answer, (path,))


def _answer(path: str) -> None:
    token, patience = _question(path)
    events.guarded(_wait_for_failures, "the work under way at the end of the page")(patience)
    events.guarded(_let_loops_come_round, "the event loops at the end of the page")()
    events.guarded(endings.tell, "the end of the page")()
    events.write("last-words", token=token)
    events.Kept.unlink(path)


def _wait_for_failures(patience: float) -> None:
    began = events.Kept.monotonic()
    others = [it for it in handles.under_way() if not waiting.is_of_pool(it())]
    others += asynchronous.under_way()
    while (waited := events.Kept.monotonic() - began) < patience:
        is_other = waited < _FAILS_WITHIN and any(handles.has_no_outcome(it()) for it in others)
        if not (is_other or waiting.is_busy()):
            return
        _sleep(_POLL)


def kernel_starts(_frame: FrameType, _: Any) -> None:
    """Listen in a kernel of Jupyter that another program starts."""
    if not _listens_to_another_program():
        return
    try:
        cwd = os.getcwd()
    except OSError:  # it was removed
        cwd = ""
    session = os.environ.get("JPY_SESSION_NAME", "")
    events.write("kernel-started", cwd=events.text(cwd), session=events.text(session))


def kernel_launched(frame: FrameType, _: Any) -> None:
    """Tell which notebooks a program names in the calls by which it has a kernel of Jupyter run."""
    manager: Any = frame.f_locals["self"]
    pid = getattr(manager.provisioner, "pid", None)
    calls: list[list[str]] = []
    caller: Any = frame
    while (caller := caller.f_back) is not None and len(calls) < events.WORDS:
        values = map(events.path_of, list(caller.f_locals.values()))
        named = [path for path in values if path.endswith(_NOTEBOOKS) and len(path) < _PATH_LIMIT]
        if named:
            calls.append(named[: events.WORDS])
    if calls and type(pid) is int:
        events.write("kernel-launched", child=pid, notebooks=calls)


def program_kernel_starts(_frame: FrameType, _: Any) -> None:
    """Listen in a kernel that executes a program, whose cells are found in its file."""
    _listens_to_another_program()


def kernel_interrupted(frame: FrameType, _: Any) -> None:
    """Ask a kernel of Jupyter for its last words before its manager ends it."""
    manager: Any = frame.f_locals["self"]
    if getattr(manager, "shutting_down", False):
        _ask(getattr(getattr(manager, "provisioner", None), "pid", None))


def program_kernel_closed(frame: FrameType, _: Any) -> None:
    """Ask a kernel that executes a program for its last words before its manager ends it."""
    manager: Any = frame.f_locals["self"]
    _ask(getattr(manager.kernel_task, "pid", None))


def _listens_to_another_program() -> bool:
    """Listen, and tell whether this process does so only now."""
    if _is_listening or not hasattr(os, "mkfifo"):
        return False
    path = _question_to(os.getpid())
    os.mkfifo(path, 0o600)
    listen(path)
    return True


def _ask(pid: Any) -> None:
    if type(pid) is not int:
        return
    path = _question_to(pid)
    try:
        fd = _open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # not watched, one of workercheck's own, or it has ended
        return
    try:
        _write(fd, f"{pid} {waiting.PATIENCE:g}".encode())
    finally:
        _close(fd)
    deadline = events.Kept.monotonic() + waiting.PATIENCE + _ANSWERS_WITHIN
    while (
        events.exists(path)
        and not signals.ends_by_itself(pid)
        and events.Kept.monotonic() < deadline
    ):
        _sleep(_POLL)
    events.write("kernel-shutdown", child=pid)


def _question_to(pid: int) -> str:
    """Return the path of the pipe through which another program asks a kernel."""
    return f"{events.folder}/question-{pid}"


def _question(path: str) -> tuple[str, float]:
    while True:
        fd = _open(path, os.O_RDONLY)
        try:
            words = _read(fd, 100).decode().split()
        finally:
            _close(fd)
        if len(words) == 2:
            return words[0], float(words[1])
        _sleep(_POLL)


def _let_loops_come_round() -> None:
    """Let what has failed reach the tasks that await it."""
    for loop in asynchronous.loops():
        _let_come_round(loop)


def _let_come_round(loop: AbstractEventLoop) -> None:
    turns: list[None] = []

    def turn() -> None:
        turns.append(None)
        if len(turns) < _TURNS:
            loop.call_soon(turn)

    deadline = events.Kept.monotonic() + _TURNS_WITHIN
    loop.call_soon_threadsafe(turn)
    while len(turns) < _TURNS and events.Kept.monotonic() < deadline:
        _sleep(_POLL / 10)
