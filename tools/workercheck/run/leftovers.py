"""End the processes of a page, and tell which of them it should have ended."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psutil

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.run import clock, interpreters
from workercheck.run.processes import ProcessTree

GONE_WITHIN = 5.0
"""Seconds that a page's processes get to end after their kernel has."""

_POLL = 0.1


async def end_all(
    tree: ProcessTree, evidence: Evidence, outside: set[int], *, is_cut_short: bool
) -> None:
    """End what outlives the kernel.

    Parameters
    ----------
    tree
        The processes of the run.
    evidence
        Where an event is written for each.
    outside
        Those that the kernel was not to end itself, by pid. Of the others nobody is to blame for
        what is left: a pool replaces workers that are ended, and a kernel may end too early.
    is_cut_short
        Whether the page was stopped on its way: then nothing gets time to end by itself, and what
        is left is no fault of it.
    """
    deadline = time.monotonic() + (0.0 if is_cut_short else GONE_WITHIN)
    asked: set[int] = set()
    while (left := tree.all()) and time.monotonic() < deadline:
        for process in left.values():
            with contextlib.suppress(psutil.Error):
                if process.pid not in outside and not is_tracker(process):
                    process.kill()
                elif process.pid not in asked and _is_server_of_a_host(process):
                    # Its own way to end lets its kernels have their last words.
                    process.terminate()
                    asked.add(process.pid)
        await asyncio.sleep(_POLL)
        tree.learn(evidence.read())
    told: set[int] = set()
    for _ in range(10):  # one may have started another before it was ended
        for process in left.values():
            with contextlib.suppress(psutil.Error):
                command = interpreters.program(process.cmdline())[:200]
                born = clock.born(process)  # nothing tells it of one that is gone
                # A tracker only waits for the others.
                is_nobodys = is_tracker(process) or _is_server_of_a_host(process)
                is_fault = not (is_cut_short or is_nobodys or process.pid in told)
                process.kill()
                told.add(process.pid)
                if is_fault:
                    evidence.append(
                        ev.Leftover,
                        child=process.pid,
                        parents=tree.parents(process.pid),
                        command=command,
                        born=born,
                    )
        if not left:
            break
        await asyncio.sleep(_POLL / 2)
        left = tree.all()


async def end_when_only_trackers_are_left(kernel: psutil.Process | None) -> None:
    """End a kernel that waits for nothing but resource trackers.

    ipykernel ends its children before itself, by SIGTERM, which a tracker ignores: it goes by
    itself when nobody is left to track for. Every page with a pool has one.
    """
    with contextlib.suppress(psutil.Error):
        while kernel is not None:
            await asyncio.sleep(_POLL)
            left = [
                child
                for child in kernel.children(recursive=True)
                if child.status() != psutil.STATUS_ZOMBIE
            ]
            if left and all(map(is_tracker, left)):
                kernel.terminate()
                return


def is_tracker(process: psutil.Process) -> bool:
    """Tell whether a process is a resource tracker of multiprocessing, or of a library like it."""
    return "resource_tracker" in " ".join(process.cmdline())


def _is_server_of_a_host(process: psutil.Process) -> bool:
    return any(word in process.cmdline() for word in libraries.HOST_SERVERS)
