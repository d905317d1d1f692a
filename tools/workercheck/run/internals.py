"""What of nbclient and jupyter_client a run uses that they do not promise: here, nowhere else.

Each function has a test that names the library, should it change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from nbclient import NotebookClient


def kernel_pid(client: NotebookClient) -> int | None:
    """Return the process id of a client's kernel, None where a provisioner does not tell it."""
    return getattr(_provisioner(client), "pid", None)


def spare_process_group(client: NotebookClient) -> None:
    """Have a kernel that takes long to end be killed by itself, without its process group."""
    if hasattr(provisioner := _provisioner(client), "pgid"):
        provisioner.pgid = None


def forgotten_tasks(client: NotebookClient) -> Iterator[asyncio.Task[Any]]:
    """Return the tasks of a client that go on.

    After a timeout it forgets the one that asks whether the kernel lives.
    """
    for task in asyncio.all_tasks():
        frame: Any = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and frame.f_locals.get("self") is client:
            yield task


async def end_kernel(client: NotebookClient) -> None:
    """Shut a client's kernel down, in the way that its ``shutdown_kernel`` says."""
    await client._async_cleanup_kernel()


def _provisioner(client: NotebookClient) -> Any:
    return getattr(client.km, "provisioner", None)
