"""End a build in order when somebody stops it: at SIGTERM as at Ctrl-C, with its findings told."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def sigterm_like_sigint() -> Iterator[None]:
    """Have SIGTERM raise `KeyboardInterrupt`, where it would end this process on the spot.

    A program that has a handler of its own for it keeps that.
    """
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free or threading.current_thread() is not threading.main_thread():
        yield
        return
    build = os.getpid()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() == build:
            raise KeyboardInterrupt
        # Sphinx forks processes to read and to write pages, and ends them by this signal.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
