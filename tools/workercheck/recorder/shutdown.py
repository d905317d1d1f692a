"""What is left to do in the kernel after a page's last cell.

Imported then. Only the standard library is imported.
"""

from __future__ import annotations

import os
import sys
import time

from workercheck.recorder import events as _events
from workercheck.recorder import handouts as _observer
from workercheck.recorder import unseen as _unseen


async def finish(patience: float) -> None:
    """Wait for work still under way, then record which modules of its own the page imported.

    Parameters
    ----------
    patience : float
        Seconds that the work gets, at most. It is not waited for its own sake, but for its failure.
    """
    import asyncio

    deadline = time.monotonic() + patience
    while _observer.is_busy() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    _unseen.tell()
    _events.write("modules", files=_own_modules())


def _own_modules() -> dict[str, str]:
    import hashlib
    import sysconfig

    installed = tuple(os.path.realpath(p) + os.sep for p in set(sysconfig.get_paths().values()))
    modules = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if type(path) is not str or not os.path.isfile(path):
            continue
        path = os.path.realpath(path)
        if not path.startswith(installed):
            with open(path, "rb") as file:
                modules[path] = hashlib.sha256(file.read()).hexdigest()
    return modules
