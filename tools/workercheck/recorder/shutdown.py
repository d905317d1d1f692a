"""The last words of a kernel: what is left to tell after its page's last cell.

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

from workercheck.recorder import asynchronous, endings, events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# Kept from before a test suite or a page can replace them.
_open, _read, _close = os.open, os.read, os.close
_sleep = time.sleep

_POLL = 0.02
_TURNS = 3
"""How often an event loop comes round until a failure that a thread told it is in its task."""
_TURNS_WITHIN = 1.0
"""Seconds after which an event loop that has not come round does not."""


def listen(path: str) -> None:
    """Start the thread that waits for the question.

    Parameters
    ----------
    path : str
        The pipe, or where there are none a file that is empty as long as nobody asks. The question
        is the word with which to answer, and the seconds that work still under way gets. It is not
        waited for its own sake, but for its failure.
    """
    _thread.start_new_thread(_answer, (path,))


def _answer(path: str) -> None:
    token, patience = _question(path)
    deadline = events.Kept.monotonic() + patience
    while endings.is_busy() and events.Kept.monotonic() < deadline:
        _sleep(_POLL)
    events.guarded(_let_loops_come_round, "the event loops at the end of the page")()
    events.guarded(endings.tell, "the end of the page")()
    events.write("last-words", token=token)


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
