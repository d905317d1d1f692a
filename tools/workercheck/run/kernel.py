"""The kernel of a page: how it is started, and how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import nbformat
import psutil

from workercheck.evidence import records as ev
from workercheck.evidence.reader import CAREFULLY, Evidence
from workercheck.recorder import events as _events
from workercheck.run import internals, interpreters
from workercheck.run.leftovers import end_all, end_when_only_trackers_are_left
from workercheck.run.outputs import BoundedClient
from workercheck.run.page import Page
from workercheck.run.processes import ProcessTree
from workercheck.run.seal import KEY

SHUTDOWN = 2.0
"""Seconds that a kernel gets to end before it is killed."""

_SOCKET_LIMIT = 100
"""Bytes that the path of a socket may have, without the number that is added to it."""

_FOR_EVER = 10**9
"""Seconds that no clock is set by."""

LOG = "kernel.log"
"""The file in the folder of the evidence for what the kernel writes past the page."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Kernel:
    """The kernel of one page.

    Parameters
    ----------
    page
        The page.
    notebook
        Gets the outputs, and the language.
    evidence
        That of the run.
    tree
        Learns which process the kernel is.
    cell_executed
        Called with each reply, as nbclient does.
    """

    def __init__(
        self,
        page: Page,
        notebook: nbformat.NotebookNode,
        evidence: Evidence,
        tree: ProcessTree,
        cell_executed: Callable[..., None],
    ) -> None:
        self.client = BoundedClient(
            notebook,
            timeout=page.timeout,
            allow_errors=page.allow_errors,
            record_timing=False,
            on_cell_executed=cell_executed,
        )
        self._notebook = notebook
        self._evidence = evidence
        self._tree = tree
        self._question = evidence.folder / "question"

    async def start(self, cwd: Path, log: IO[bytes], environ: Mapping[str, str]) -> None:
        """Start the kernel, with the recorder in it.

        Parameters
        ----------
        cwd
            The folder in which it runs.
        log
            The file for what it writes past the page.
        environ
            Its environment variables, without the recorder's.

        Raises
        ------
        Exception
            Of many kinds, if it does not start.
        """
        client = self.client
        client.create_kernel_manager()
        assert client.km is not None
        client.km.shutdown_wait_time = SHUTDOWN
        folder = self._evidence.folder
        # With the evidence, so that it goes with it.
        client.km.connection_file = str(folder / "connection.json")
        if sys.platform == "linux":
            # A port that is free when the kernel is told of it may be taken when it listens there.
            client.km.transport = "ipc"
            client.km.ip = _socket(folder)
        if hasattr(os, "mkfifo"):
            os.mkfifo(self._question)
        else:
            self._question.touch()
        environ = {**environ, **self._evidence.environ}
        environ[_events.QUESTION] = str(self._question)
        environ.pop(KEY, None)  # a page signs nothing
        await client.async_start_new_kernel(env=environ, cwd=str(cwd), stdout=log, stderr=log)
        if pid := internals.kernel_pid(client):
            self._tree.begin(pid)
        await self._wait_for_answer()
        assert client.kc is not None
        reply = await client.async_wait_for_reply(client.kc.kernel_info())
        if pid:
            with contextlib.suppress(psutil.Error):
                # Its own command by now: a kernel may be started through another program.
                called = psutil.Process(pid).cmdline()[0]
                environment = interpreters.environment_of(called)
                self._evidence.append(
                    ev.KernelAnswered,
                    environment=environment if interpreters.is_python(called) else "",
                )
        if reply is not None:
            self._notebook.metadata["language_info"] = reply["content"]["language_info"]

    async def _wait_for_answer(self) -> None:
        """Wait until the kernel answers, or for as long as the client's own limit is.

        The client goes by the clock on the wall: where that is set by an hour meanwhile, a kernel
        that starts as it should has not answered in time, or one that hangs has an hour more.
        """
        patience = self.client.startup_timeout
        self.client.startup_timeout = _FOR_EVER
        try:
            async with asyncio.timeout(patience):
                await self.client.async_start_new_kernel_client()
        except TimeoutError:
            raise RuntimeError(f"it did not answer within {patience} s") from None

    def ask_for_last_words(self, token: str, patience: float) -> bool:
        """Ask the recorder in the kernel to wait for work that may fail, then to tell the rest.

        Parameters
        ----------
        token
            The word with which it is to answer.
        patience
            Seconds that the work gets.

        Returns
        -------
        bool
            Whether somebody listens; a later try may find the recorder there.
        """
        try:
            fd = os.open(self._question, os.O_WRONLY | CAREFULLY)
            try:
                os.write(fd, f"{token} {patience:g}".encode())
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def log(self) -> list[str]:
        """Return the lines that the kernel and its workers wrote past the page."""
        try:
            text = (self._evidence.folder / LOG).read_text("utf-8", "backslashreplace")
        except OSError:
            text = ""
        return [line for line in plain(text).splitlines() if line.strip()]

    def why_it_died(self) -> str:
        """Return what the kernel wrote when it ended by itself."""
        fatal = [line for line in self.log() if "Fatal Python error" in line]
        return fatal[-1] if fatal else "it ended without an error message"

    async def end(self, *, is_cut_short: bool) -> None:
        """Shut the kernel down, and end what it left behind.

        Parameters
        ----------
        is_cut_short
            As for `end_all`.
        """
        self._evidence.append(ev.ShutdownStarted)
        for task in internals.forgotten_tasks(self.client):
            task.cancel()
        self.client.shutdown_kernel = "immediate" if is_cut_short else "graceful"
        outside = self._tree.outside()
        # With the kernel's process group, its processes would be ended: whether one is left would
        # depend on how busy the machine is.
        internals.spare_process_group(self.client)
        waiting = asyncio.ensure_future(end_when_only_trackers_are_left(self._tree.kernel))
        with contextlib.suppress(Exception):
            await internals.end_kernel(self.client)
        waiting.cancel()
        await end_all(self._tree, self._evidence, outside, is_cut_short=is_cut_short)


def _socket(folder: Path) -> str:
    """Return a name for the sockets of a kernel.

    Parameters
    ----------
    folder
        Of this run, and of nobody else: sockets in it are for its owner alone.
    """
    path = str(folder / "kernel")
    if len(os.fsencode(path)) <= _SOCKET_LIMIT:
        return path
    # Abstract: of any length, and open to every user of the machine.
    return f"@{folder.parent.name}-{folder.name}"


def plain(text: str) -> str:
    """Return a text without the colours of a terminal."""
    return _ANSI.sub("", text)
