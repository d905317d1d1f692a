"""End the processes of pages, also of a build that was killed.

A build that executes pages runs this module beside it, in a session of its own. When the build
ends, in whatever way, its end of the pipe closes; what it could not end itself is ended then.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from workercheck.recorder import events as _events
from workercheck.run import clock

PATIENCE = 10.0
"""Seconds for which processes are looked for that a dying page may still start."""

QUIET = 1.0
"""Seconds without a process after which a build that was killed has left none.

A process that a build was starting when it was killed looks like the build itself until it
executes its program: only then does it have the variable by which it is found.
"""

_ENDED = b"ended"
"""What a build that was not killed writes when it has ended what it could."""


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[None]:
    """See to it that no process with evidence below a folder outlives this one, nor the folder.

    Raises
    ------
    OSError
        If the process that does so cannot be started.
    """
    process = subprocess.Popen(
        # Without the folder in which the build runs on its path.
        [sys.executable, "-P", "-m", "workercheck.run.reaper", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(_ENDED)


def processes_below(folder: Path, *, since: float = 0.0) -> list[psutil.Process]:
    """Find a page's processes by the variable they inherited, in whatever session.

    Parameters
    ----------
    folder
        The folder of the page's evidence, or one above it.
    since
        Seconds of the clock of the events; older processes are not looked at.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if clock.born(process) >= since - 1 and process.status() != psutil.STATUS_ZOMBIE:
                evidence = process.environ().get(_events.ENV)
                if evidence and folder in (path := Path(evidence), *path.parents):
                    found.append(process)
    return found


def main(folder: Path) -> None:
    """Wait for the build's end, then end what it left."""
    quiet = 0.0 if sys.stdin.buffer.read() == _ENDED else QUIET
    started = last_found = time.monotonic()
    while (now := time.monotonic()) < started + PATIENCE:
        left = processes_below(folder)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if left:
            # Again: one may have started another before it was ended.
            last_found = now
        elif now >= last_found + quiet:
            break
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
