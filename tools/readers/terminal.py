"""Run a command in a terminal of its own, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from readers.record import ReadersError

GONE_WITHIN = 5.0
"""Seconds that the processes of a run get to go, once they have been killed."""

MARK = "READERS_RUN"
"""The variable by which the processes of a run are known."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR = re.compile(r"^(\w+\.)*[A-Z]\w*(Error|Exception|Exit|Interrupt|Pool)(:|$)")


def in_terminal(
    command: Sequence[str],
    cwd: Path,
    environ: Mapping[str, str],
    *,
    timeout: float,
    stop: threading.Event,
) -> tuple[int | None, str]:
    """Run a command in a terminal of its own.

    Returns
    -------
    status
        Its exit status, None when it took too long.
    output
        What stood in the terminal, without colours.
    """
    ours, theirs = pty.openpty()
    chunks: list[bytes] = []

    def listen() -> None:
        # On Linux, the end of the other side is an error.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = time.monotonic() + timeout
    status: int | None = None
    mark = uuid.uuid4().hex
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environ, MARK: mark},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        try:
            while time.monotonic() < deadline and not stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(0.2)
                    break
        finally:
            end(process, mark)
    finally:
        os.close(theirs)
        listener.join()
        os.close(ours)
    return status, _ANSI.sub("", b"".join(chunks).decode(errors="replace")).replace("\r\n", "\n")


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill a run's process group, and whatever of it has left the group.

    Raises
    ------
    ReadersError
        If a process cannot be ended.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + GONE_WITHIN
    while left := list(marked(mark)):
        if time.monotonic() > deadline:
            raise ReadersError(f"processes {[p.pid for p in left]} of a run cannot be ended.")
        for other in left:
            with contextlib.suppress(psutil.Error):
                other.kill()
        time.sleep(0.05)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield the processes of a run, in whatever session they are."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                yield process


def last_error(output: str) -> str:
    """Return the line of a terminal's text that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["no output"])[-1][:300]
