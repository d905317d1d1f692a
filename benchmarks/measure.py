"""Run a command and measure it with everything it starts: wall time, CPU time, peak memory."""

from __future__ import annotations

import ctypes
import dataclasses as dc
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
"""From ``linux/prctl.h``: orphans among the descendants become children of this process."""

SAMPLE = 0.5
"""Seconds between two looks at the memory."""

LINGER = 60.0
"""Seconds that orphans of a command get to end before the measurement is given up."""


@dc.dataclass(frozen=True, slots=True)
class Cost:
    """What a command took."""

    status: int
    """Its exit status."""
    wall: float
    """Seconds until it ended."""
    cpu: float
    """CPU seconds, user and system, of it and of all that it started."""
    memory: float
    """Peak of the proportional set sizes of all its processes together, in MiB."""


def measure(command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end and wait for every process that it leaves behind.

    Parameters
    ----------
    command
        Program and arguments.
    log
        Where its output goes.
    env
        Its environment; by default this process's.

    Raises
    ------
    RuntimeError
        If a process that it started does not end within `LINGER`.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _cpu()
    peak = 0.0
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        sampled = started
        while process.poll() is None:
            if time.monotonic() - sampled > SAMPLE:
                peak = max(peak, _memory())
                sampled = time.monotonic()
            time.sleep(0.02)
        wall = time.monotonic() - started
    _reap()
    return Cost(process.returncode, wall, _cpu() - before, peak)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _memory() -> float:
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def _reap() -> None:
    """Wait for the orphans, so that what they used is counted and nothing runs on."""
    deadline = time.monotonic() + LINGER
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            return
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    raise RuntimeError(f"still running {LINGER:g} s after the build: {left}")
