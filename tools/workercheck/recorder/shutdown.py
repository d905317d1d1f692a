"""What is left to do in a kernel after a page's last cell.

Imported then. Only the standard library is imported.
"""

from __future__ import annotations

import os
import sys
import time

from workercheck.recorder import endings, events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task

_waiting: set[Task[None]] = set()


def finish(patience: float) -> None:
    """Wait for work still under way, then write the last words of this kernel.

    The waiting is a task of the event loop that runs the kernel: tasks of the page go on
    meanwhile, and nothing depends on how the page's cells are run (``%autoawait``).

    Parameters
    ----------
    patience : float
        Seconds that the work gets, at most. It is not waited for its own sake, but for its failure.
    """
    import asyncio

    deadline = time.monotonic() + patience
    try:
        task = asyncio.get_running_loop().create_task(_wait(deadline))
    except RuntimeError:  # a kernel without an event loop
        while endings.is_busy() and time.monotonic() < deadline:
            time.sleep(0.02)
        _last_words()
        return
    _waiting.add(task)


async def _wait(deadline: float) -> None:
    import asyncio

    while endings.is_busy() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    _last_words()


def _last_words() -> None:
    events.guarded(endings.tell, "the end of the page")()
    events.write("modules", files=_own_modules())


def _own_modules() -> dict[str, str]:
    import hashlib
    import sysconfig

    installed = tuple(os.path.realpath(p) + os.sep for p in set(sysconfig.get_paths().values()))
    modules = {}
    for module in list(sys.modules.values()):
        try:
            path = getattr(module, "__file__", None)
            if type(path) is not str or not os.path.isfile(path):
                continue
            path = os.path.realpath(path)
            if not path.startswith(installed):
                with open(path, "rb") as file:
                    modules[path] = hashlib.sha256(file.read()).hexdigest()
        except Exception:
            continue  # an entry that raises when it is looked at hides nobody but itself
    return modules
