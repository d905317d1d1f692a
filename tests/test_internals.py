"""What other libraries do not promise and is used all the same: who changed it, says a failure."""

from __future__ import annotations

import asyncio
import contextlib
import os
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from sphinx.config import Config
from workercheck.fronts.sphinx import internals as sphinx_internals
from workercheck.run import internals as run_internals


@contextlib.contextmanager
def changed(library: str):
    """Name the library whose internals are not as they were."""
    try:
        yield
    except Exception as exc:
        pytest.fail(f"{library} {version(library)} has changed what workercheck uses of it: {exc}")


def test_kernel_of_nbclient_and_jupyter_client(tmp_path: Path) -> None:
    async def use() -> None:
        client = NotebookClient(nbformat.v4.new_notebook())
        client.create_kernel_manager()
        await client.async_start_new_kernel(cwd=str(tmp_path))
        await client.async_start_new_kernel_client()
        with changed("jupyter-client"):
            pid = run_internals.kernel_pid(client)
            assert psutil.Process(pid).ppid() == os.getpid()
            assert client.km.provisioner.pgid == pid
            run_internals.spare_process_group(client)
            assert client.km.provisioner.pgid is None
        with changed("nbclient"):
            task = asyncio.ensure_future(client._async_poll_kernel_alive())
            await asyncio.sleep(0)
            assert task in run_internals.forgotten_tasks(client)
            task.cancel()
            client.shutdown_kernel = "immediate"
            await run_internals.end_kernel(client)
            assert not psutil.pid_exists(pid)

    asyncio.run(use())


def test_names_in_conf_py_of_sphinx() -> None:
    with changed("sphinx"):
        config = Config({"workercheck_job": 1})
        assert "workercheck_job" in sphinx_internals.names_in_conf(config)
