"""Signals: which processes were asked to end, and which end already or have ended.

Each handler is called with the frame of a function of a library, see `workercheck.recorder.roles`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys

from workercheck.recorder import events, frameless, frames, this_process

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Kept from before a test suite or a page can replace them.
_open, _listdir = open, os.listdir

_EXITING = 0x4
"""Flag of a process that Linux is taking down: ``PF_EXITING`` in ``include/linux/sched.h``."""

_KILL = re.compile(
    r"(?:^|[\s;&|(/])kill(?:\s+-(?:[sn]\s*|-signal[\s=])?(?:SIG)?(\w+))?((?:\s+(?:--|-?\d+))+)"
)
"""A command that ends processes: the name or the number of the signal, and the processes."""

_sent: set[tuple[int, int]] = set()
"""Pid or group, and number, of each signal that was noted."""


def watch_signals(module: Any) -> None:
    """Note each signal to another process, whichever library or page sends it."""
    me = os.getpid

    def watched(real: Any, is_group: bool) -> Any:
        def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:
            try:
                _signal_sent(args, is_group, me(), sys._getframe(1))
                return real(*args, **kwargs)
            except BaseException as exc:
                return frameless.raise_later(cls, exc)

        return frameless.wrapper(real, __new__)

    frameless.replace(module, "kill", watched(module.kill, False))
    if hasattr(module, "killpg"):
        frameless.replace(module, "killpg", watched(module.killpg, True))


def command_runs(words: Any, frame: FrameType) -> None:
    """Note the signals that a command is about to send, the text of a shell included."""
    try:
        parts = [words] if isinstance(words, str | bytes) else list(words)
        for name, targets in _KILL.findall(" ".join(os.fsdecode(part) for part in parts)):
            import signal  # late: it would cost each interpreter some milliseconds

            number = int(name) if name.isdigit() else signal.Signals[f"SIG{name or 'TERM'}"]
            for target in targets.split():
                if target != "--":
                    _signal_sent((target, number), False, os.getpid(), frame)
    except Exception:
        return  # no command, and no signal: whoever runs it is told


def _signal_sent(args: tuple[Any, ...], is_group: bool, me: int, frame: FrameType) -> None:
    try:
        target, number = (int(arg) for arg in args)
        if number == 0 or (target, number) in _sent:
            return
        if target == me and not is_group:
            if not _is_sent_by_library(frame):
                return
        elif target > 0 and not is_group and ends_by_itself(target):
            return
        _sent.add((target, number))
        is_group = is_group or target <= 0
        owned = frames.reader_of(frame) is not None
        _write_signal(abs(target), number, is_group=is_group, owned=owned)
        for child in _members_of(abs(target)) - {me} if is_group else ():
            _write_signal(child, number, owned=owned)
    except Exception:
        return  # what os.kill says of such arguments, it says itself


def _is_sent_by_library(frame: FrameType | None) -> bool:
    """Tell whether a worker ends itself as its library has it do, and not as its task does."""
    if not this_process.is_worker():
        return False
    is_library = False
    while frame is not None and frames.kind(frame) != frames.END:
        if frames.kind(frame) == frames.READER or frames.runs_task(frame):
            return False
        is_library = is_library or frames.is_installed(frame)
        frame = frame.f_back
    return is_library


def _write_signal(child: int, number: int, *, owned: bool, is_group: bool = False) -> None:
    events.write("signal-sent", child=child, is_group=is_group, signal=number, owned=owned)


def _members_of(group: int) -> set[int]:
    """Return the processes of a group, where the system tells; they may have joined it late."""
    found = set()
    try:
        for name in _listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    fields = _stat(name)
                    if fields[0] != b"Z" and int(fields[2]) == (group or os.getpgrp()):
                        found.add(int(name))
    except OSError:
        pass  # no such folder on macOS and Windows
    return found


def _stat(pid: int | str) -> list[bytes]:
    """Return what Linux tells of a process, from its state on: see ``proc_pid_stat(5)``."""
    with _open(f"/proc/{pid}/stat", "rb") as file:
        return bytes(file.read()).rpartition(b") ")[2].split()


def ends_by_itself(pid: int) -> bool:
    """Tell whether a process has ended already, or is about to, where the system can tell.

    Its connections close before it is a zombie: who asks it to end because of that comes late.
    """
    try:
        fields = _stat(pid)
        return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _EXITING)
    except OSError:  # nobody waits for it any more, or a system without such files
        return events.exists("/proc/self/stat")


def process_asked_to_end(frame: FrameType, _: Any) -> None:
    """Note a process that its library has asked to end, and now waits for."""
    pid = frame.f_locals["self"].pid
    if pid and (pid, 15) not in _sent and not ends_by_itself(pid):
        _sent.add((pid, 15))
        _write_signal(pid, 15, owned=False)


def forget_process(pid: int) -> None:
    """Forget the signals to a process that has ended: another one has its pid now."""
    for sent in [entry for entry in _sent if entry[0] == pid]:
        _sent.discard(sent)


def forget() -> None:
    """Begin anew in a forked child."""
    _sent.clear()
