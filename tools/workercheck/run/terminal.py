"""Run a program as a shell does: the terminal is its own, and signals reach it.

The program gets a process group of its own, in the foreground of the terminal where this process
had it: Ctrl-C and Ctrl-Z go to the program alone, and what is sent to this process is passed on
once, whoever else it was sent to. The signals of a keyboard are passed on as a keyboard sends them:
to all processes of the group, of which one may wait for another.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The signals that this process hands on to the program."""
_FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
"""Those that a terminal sends to the whole group in its foreground."""


class Foreground:
    """A program that runs in the foreground, from `start` on.

    Used as a context, within which the signals of this process are the program's.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.status: int | None = None
        """The exit status as a shell gives it, 128 and the signal for one; None while it runs."""
        self.was_signalled = False
        """Whether a signal was passed on, or ended the program."""
        self._handlers: dict[signal.Signals, Any] = {}
        self._terminal: int | None = None
        self._group = os.getpgrp()
        self._reader, self._writer = socket.socketpair()
        self._wakeup = -1

    def __enter__(self) -> Foreground:
        """Take the signals."""
        self._writer.setblocking(False)
        self._reader.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            self._handlers[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Give the signals and the terminal back."""
        self._take_terminal()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reader.close()
        self._writer.close()

    def start(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start the program.

        Raises
        ------
        OSError
            If it cannot be started.
        """
        process = subprocess.Popen(argv, env=environ, process_group=0)
        self.pid = process.pid
        process.returncode = 0  # `wait` asks the system itself, also whether it was stopped
        with contextlib.suppress(OSError):
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
            if os.tcgetpgrp(terminal) == self._group:
                self._terminal = terminal
                self._give_terminal()
            else:
                os.close(terminal)

    def wait(self, seconds: float, others: Sequence[socket.socket] = ()) -> bool:
        """Wait for the end of the program, at most so long; tell whether it has ended.

        Parameters
        ----------
        seconds
            How long.
        others
            Sockets: as soon as one can be read, the wait is over as well.
        """
        if self.status is None:
            select.select([self._reader, *others], [], [], seconds)
            with contextlib.suppress(BlockingIOError):
                self._reader.recv(4096)
            self._ask()
        return self.status is not None

    def send(self, number: signal.Signals) -> None:
        """Send the program a signal."""
        if self.pid and self.status is None:
            send = os.killpg if number in _FROM_KEYBOARD else os.kill
            with contextlib.suppress(ProcessLookupError):
                send(self.pid, number)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.was_signalled = True
            self.send(signal.Signals(number))

    def _ask(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return
        if os.WIFSTOPPED(status):
            self._stop()
            return
        code = os.waitstatus_to_exitcode(status)
        self.status = code if code >= 0 else 128 - code
        # A shell that its program's SIGINT ended says so by its status.
        self.was_signalled |= code < 0 or code == 128 + signal.SIGINT

    def _stop(self) -> None:
        """Stop as the program has stopped, and go on with it."""
        self._take_terminal()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._give_terminal()

    def _give_terminal(self) -> None:
        self._set_terminal(self.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGCONT)

    def _take_terminal(self) -> None:
        self._set_terminal(self._group)

    def _set_terminal(self, group: int) -> None:
        """Put a group into the foreground, where this process has been there."""
        if self._terminal is None:
            return
        sys.stdout.flush()
        # Whoever is in the background is stopped for it.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            os.tcsetpgrp(self._terminal, group)
        signal.signal(signal.SIGTTOU, before)
