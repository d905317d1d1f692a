"""When a process began, by the clock of the events, which nobody can set."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from workercheck.recorder import events as _events

now = _events.Kept.clock
"""The time of an event that is written now, in seconds."""


def born(process: psutil.Process) -> float:
    """Return when a process began, in seconds of the events' clock.

    Raises
    ------
    psutil.NoSuchProcess
        If it is gone.

    References
    ----------
    proc_pid_stat(5), field 22.
    """
    if not _events.IS_BOOT_CLOCK:
        return process.create_time()
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text("utf-8", "replace")
    except OSError:
        raise psutil.NoSuchProcess(process.pid) from None
    # The name of the program, in parentheses, may hold anything.
    return int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
