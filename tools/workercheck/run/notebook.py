"""Run pages in kernels of their own, several at once, and watch the evidence while they run."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses as dc
import os
import pickletools
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.judge.steps import RAISES_EXCEPTION
from workercheck.recorder import failure as _failure
from workercheck.recorder import process as _recorder
from workercheck.run import reaper
from workercheck.run.page import Cell, Page

GRACE = 4.0
"""Seconds that a cell gets to fail by itself after a worker of its page has failed."""

SETTLE = 15.0
"""Seconds that work still under way after the last cell gets to fail, before the kernel goes."""

UNWATCHED_AFTER = 2.0
"""Seconds after which a Python process that has not said hello runs without the recorder."""

SHUTDOWN = 2.0
"""Seconds that a kernel gets to end before it is killed."""

GONE_WITHIN = 5.0
"""Seconds that a page's processes get to end after their kernel has."""

_POLL = 0.2
_TICK = 1.0
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dc.dataclass(frozen=True, slots=True)
class Run:
    """What the run of one page left."""

    page: Page
    notebook: nbformat.NotebookNode
    """The page's notebook with its outputs, up to where it failed."""
    events: list[ev.Event]
    seconds: float


@dc.dataclass(slots=True)
class Underway:
    """A page that is running."""

    page: Page
    started: float
    """When, as `time.monotonic` counts."""
    cell: Cell | None = None
    """The cell that runs, None before the first one and after the last."""
    cell_started: float = 0.0


def run_pages(
    pages: Sequence[Page],
    *,
    jobs: int,
    has_failed: Callable[[Page, list[ev.Event]], bool],
    finished: Callable[[Run], None],
    progress: Callable[[Sequence[Underway]], None] = lambda _: None,
) -> None:
    """Execute pages and hand over each one's `Run` as soon as it is there.

    Parameters
    ----------
    pages
        What to run, in this order, but those that want no company after all others.
    jobs
        How many kernels at once, at least 1.
    has_failed
        Tells from the evidence so far whether the page can no longer pass, for a worker's
        failure. Such a page is stopped when it goes on waiting.
    finished
        Called in this thread with each run.
    progress
        Called in this thread about once a second, with what runs then.

    Raises
    ------
    OSError
        If the folder for temporary files cannot be written.
    KeyboardInterrupt
        On SIGINT and SIGTERM, after every kernel and worker has been ended.
    """
    folder = Path(tempfile.mkdtemp(prefix="workercheck-"))
    with reaper.watching(folder):
        asyncio.run(_Runner(folder, jobs, has_failed, finished, progress).run(pages))


class _Runner:
    """Runs pages, and stops at SIGTERM as at SIGINT."""

    def __init__(
        self,
        folder: Path,
        jobs: int,
        has_failed: Callable[[Page, list[ev.Event]], bool],
        finished: Callable[[Run], None],
        progress: Callable[[Sequence[Underway]], None],
    ) -> None:
        self.folder = folder
        self.slots = asyncio.Semaphore(jobs)
        self.has_failed = has_failed
        self.finished = finished
        self.progress = progress
        self.underway: list[Underway] = []

    async def run(self, pages: Sequence[Page]) -> None:
        terminated = False
        this = asyncio.current_task()
        assert this is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            this.cancel()

        loop = asyncio.get_running_loop()
        # Not on Windows, nor outside the main thread, which has handlers of its own.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGTERM, terminate)
        ticker = asyncio.ensure_future(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for page in pages:
                    if not page.exclusive:
                        group.create_task(self._run(page))
            for page in pages:
                if page.exclusive:
                    await self._run(page)
        except asyncio.CancelledError:
            if terminated:  # as Ctrl-C does, through every ``finally``
                raise KeyboardInterrupt from None
            raise
        except BaseExceptionGroup as group_of:
            raise group_of.exceptions[0] from None
        finally:
            ticker.cancel()
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(signal.SIGTERM)

    async def _tick(self) -> None:
        while True:
            self.progress(self.underway)
            await asyncio.sleep(_TICK)

    async def _run(self, page: Page) -> None:
        async with self.slots:
            underway = Underway(page, time.monotonic())
            self.underway.append(underway)
            try:
                run = await _run(underway, self.folder, self.has_failed)
            finally:
                self.underway.remove(underway)
            self.finished(run)


async def _run(
    underway: Underway, root: Path, has_failed: Callable[[Page, list[ev.Event]], bool]
) -> Run:
    page = underway.page
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        evidence = Evidence(folder).create()
        cwd = folder / "cwd" if page.in_temp else page.path.parent
        cwd.mkdir(exist_ok=True)
        notebook = copy.deepcopy(page.notebook)
        with (folder / "kernel.log").open("wb") as log:
            await _PageRun(underway, notebook, evidence, has_failed).execute(cwd, log)
        seconds = time.monotonic() - underway.started
        language = notebook.metadata.get("language_info", {}).get("name", "python")
        evidence.append(ev.Finished, seconds=seconds, language=language)
        return Run(page, notebook, evidence.read(), seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _StopPageError(Exception):
    """The page has failed, and its cell waits for what will not come."""


class _PageRun:
    """The run of one page."""

    def __init__(
        self,
        underway: Underway,
        notebook: nbformat.NotebookNode,
        evidence: Evidence,
        has_failed: Callable[[Page, list[ev.Event]], bool],
    ) -> None:
        self.underway = underway
        self.page = underway.page
        self.notebook = notebook
        self.evidence = evidence
        self.has_failed = has_failed
        self.current = 0
        self.suspects: dict[int, float] = {}
        self.accused: set[int] = set()
        self.in_a_hurry = False

    async def execute(self, cwd: Path, log: Any) -> None:
        """Start the kernel, run the cells, end everything."""
        born = time.time()
        tags = {cell.position: _prepare_tags(self.notebook, cell) for cell in self.page.cells}
        client = NotebookClient(
            self.notebook,
            timeout=self.page.timeout,
            allow_errors=self.page.allow_errors,
            record_timing=False,
            on_cell_executed=self._cell_executed,
        )
        client.create_kernel_manager()
        assert client.km is not None
        client.km.shutdown_wait_time = SHUTDOWN
        folder = self.evidence.folder
        # With the evidence, so that it goes with it.
        client.km.connection_file = str(folder / "connection.json")
        if sys.platform == "linux":
            # A port that is free when the kernel is told of it may be taken when it listens there.
            # An abstract socket has a name of its own, and no file.
            client.km.transport = "ipc"
            client.km.ip = f"@{folder.parent.name}-{folder.name}"
        try:
            await client.async_start_new_kernel(
                env=os.environ | self.evidence.environ, cwd=str(cwd), stdout=log, stderr=log
            )
            await client.async_start_new_kernel_client()
            await self._set_language(client)
        except Exception as exc:
            why = "; ".join([_one_line(exc), *self._log()[-1:]])
            self.evidence.append(ev.KernelDied, cell=None, message=f"it did not start: {why}")
        else:
            await self._execute_cells(client)
        finally:
            for position, before in tags.items():
                self.notebook.cells[position].metadata.pop("tags")
                if before is not None:
                    self.notebook.cells[position].metadata["tags"] = before
            await self._end(client, born)

    async def _set_language(self, client: NotebookClient) -> None:
        assert client.kc is not None
        reply = await client.async_wait_for_reply(client.kc.kernel_info())
        if reply is not None:
            self.notebook.metadata["language_info"] = reply["content"]["language_info"]

    async def _execute_cells(self, client: NotebookClient) -> None:
        watcher = asyncio.ensure_future(self._watch(client))
        try:
            for index, cell in enumerate(self.page.cells):
                self.evidence.append(ev.CellStarted, cell=index)
                self.underway.cell = cell
                self.underway.cell_started = time.monotonic()
                self.current = index
                work = asyncio.ensure_future(
                    client.async_execute_cell(
                        self.notebook.cells[cell.position],
                        cell.position,
                        execution_count=client.code_cells_executed + 1,
                    )
                )
                try:
                    await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not work.done():
                        work.cancel()
                        await asyncio.gather(work, return_exceptions=True)
                if watcher.done():
                    watcher.result()
                try:
                    work.result()
                except CellExecutionError:
                    break
            client.set_widgets_metadata()
            await self._settle(client)
        except asyncio.CancelledError:
            self.in_a_hurry = True
            raise
        except _StopPageError:
            self.in_a_hurry = True
            self.evidence.append(ev.Stopped, cell=self.current)
            self._add_error("WorkerError", "a worker of this page failed; the cell went on waiting")
        except CellTimeoutError:
            self.in_a_hurry = True
            assert self.page.timeout is not None
            self.evidence.append(ev.CellTimedOut, cell=self.current, timeout=self.page.timeout)
            self._add_error("CellTimeoutError", f"no end after {self.page.timeout:g} s")
        except DeadKernelError:
            self.evidence.append(ev.KernelDied, cell=self.current, message=self._last_words())
            self._add_error("DeadKernelError", "the kernel died in this cell")
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError, _StopPageError):
                await watcher

    def _cell_executed(self, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        content = execute_reply["content"]
        failed = content["status"] == "error"
        self.evidence.append(
            ev.CellFinished,
            cell=self.current,
            message_id=execute_reply["parent_header"]["msg_id"],
            exception=str(content.get("ename", "")) if failed else None,
            message=str(content.get("evalue", ""))[:4000] if failed else "",
            causes=_ANSI.sub("", "\n".join(content.get("traceback", ())))[-12000:]
            if failed
            else "",
        )

    def _add_error(self, name: str, message: str) -> None:
        """Show in the page why it ends here."""
        cell = self.notebook.cells[self.page.cells[self.current].position]
        cell.setdefault("outputs", []).append(
            nbformat.v4.new_output(
                "error", ename=name, evalue=message, traceback=[f"{name}: {message}"]
            )
        )

    def _last_words(self) -> str:
        fatal = [line for line in self._log() if "Fatal Python error" in line]
        return fatal[-1] if fatal else "it ended without a word"

    def _log(self) -> list[str]:
        """Return the lines that the kernel and its workers wrote past the page."""
        try:
            text = (self.evidence.folder / "kernel.log").read_text("utf-8", "backslashreplace")
        except OSError:
            text = ""
        return [line for line in _ANSI.sub("", text).splitlines() if line.strip()]

    async def _watch(self, client: NotebookClient) -> None:
        """Stop a page that has failed and waits; notice Python processes without the recorder."""
        size = 0
        failed_since: float | None = None
        next_scan = 0.0
        while True:
            await asyncio.sleep(_POLL)
            now = time.monotonic()
            if now >= next_scan:
                next_scan = now + 1.0
                self._find_unwatched(client)
            if failed_since is None and (grown := self._evidence_size()) != size:
                size = grown
                if self.has_failed(self.page, self.evidence.read()):
                    failed_since = now
            if (
                failed_since is not None
                and now - max(failed_since, self.underway.cell_started) > GRACE
            ):
                raise _StopPageError

    def _evidence_size(self) -> int:
        try:
            return self.evidence.file.stat().st_size
        except OSError:
            return -1

    def _find_unwatched(self, client: NotebookClient) -> None:
        kernel = _kernel_process(client)
        if kernel is None:
            return
        known = {e.pid for e in self.evidence.read() if isinstance(e, ev.Hello)} | self.accused
        now = time.monotonic()
        with contextlib.suppress(psutil.Error):
            interpreter = kernel.exe()
            for process in [kernel, *kernel.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    if process.pid in known or process.exe() != interpreter:
                        continue
                    if now - self.suspects.setdefault(process.pid, now) >= UNWATCHED_AFTER:
                        self.accused.add(process.pid)
                        self.evidence.append(
                            ev.Unwatched,
                            child=process.pid,
                            command=" ".join(process.cmdline())[:200],
                        )

    async def _settle(self, client: NotebookClient) -> None:
        """Give the work of the last cells a moment to fail where it can be seen."""
        self.underway.cell = None
        assert client.kc is not None
        closing = "__import__('workercheck.recorder.shutdown', fromlist=['finish'])"
        client.kc.execute(f"await {closing}.finish({SETTLE})", silent=True, store_history=False)
        deadline = time.monotonic() + SETTLE + 5.0
        while time.monotonic() < deadline:
            events = self.evidence.read()
            if any(isinstance(e, ev.Modules | ev.Damaged) for e in events):
                break
            if self.has_failed(self.page, events):
                self.in_a_hurry = True
                return
            await asyncio.sleep(0.05)
        self._find_unwatched(client)
        if set(self.suspects) - {e.pid for e in self.evidence.read() if isinstance(e, ev.Hello)}:
            await asyncio.sleep(UNWATCHED_AFTER)
            self._find_unwatched(client)

    async def _end(self, client: NotebookClient, born: float) -> None:
        """Shut the kernel down, and end what it left behind."""
        self._find_died_loading()
        self.evidence.append(ev.Closing)
        for task in asyncio.all_tasks():
            # nbclient forgets the one that asks whether the kernel lives, after a timeout.
            frame = getattr(task.get_coro(), "cr_frame", None)
            if frame is not None and frame.f_locals.get("self") is client:
                task.cancel()
        client.shutdown_kernel = "immediate" if self.in_a_hurry else "graceful"
        of_the_page = {p.pid for p in reaper.processes_below(self.evidence.folder, since=born)}
        hurry = asyncio.ensure_future(_spare_trackers(_kernel_process(client)))
        with contextlib.suppress(Exception):
            await client._async_cleanup_kernel()
        hurry.cancel()
        patience = time.monotonic() + (0.0 if self.in_a_hurry else GONE_WITHIN)
        while (
            left := reaper.processes_below(self.evidence.folder, since=born)
        ) and time.monotonic() < patience:
            for process in left:
                # A pool replaces the workers that ipykernel ends, up to the kernel's own end.
                with contextlib.suppress(psutil.Error):
                    if process.pid not in of_the_page and not _is_tracker(process):
                        process.kill()
            await asyncio.sleep(0.1)
        for process in left:
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())[:200]
                # A tracker only waits for the others.
                is_tracker = _is_tracker(process)
                process.kill()
                if not self.in_a_hurry and not is_tracker:
                    self.evidence.append(ev.Leftover, child=process.pid, command=command)

    def _find_died_loading(self) -> None:
        for path in self.evidence.folder.glob("flight-*"):
            try:
                flight = path.read_bytes()
            except OSError:
                continue
            pid = int(path.name.split("-")[1])
            if flight[:1] == b"\x01" and not _is_alive(pid):
                names = _failure.names_in(flight[_recorder.FLIGHT_HEADER :], pickletools.genops)
                self.evidence.append(ev.DiedLoading, child=pid, globals=list(names))


def _prepare_tags(notebook: nbformat.NotebookNode, cell: Cell) -> list[str] | None:
    """Let nbclient go on after a cell that is expected to fail; return the tags as they were."""
    metadata = notebook.cells[cell.position].metadata
    before = metadata.get("tags")
    metadata["tags"] = sorted(
        cell.tags | ({RAISES_EXCEPTION} if cell.expects_worker_error else set())
    )
    return None if before is None else list(before)


def _kernel_process(client: NotebookClient) -> psutil.Process | None:
    provisioner = getattr(client.km, "provisioner", None)
    pid = getattr(provisioner, "pid", None)
    try:
        return psutil.Process(pid) if pid else None
    except psutil.Error:
        return None


async def _spare_trackers(kernel: psutil.Process | None) -> None:
    """End a kernel that waits for nothing but resource trackers.

    ipykernel ends its children before itself, by SIGTERM, which a tracker ignores: it goes by
    itself when nobody is left to track for. Every page with a pool has one.
    """
    with contextlib.suppress(psutil.Error):
        while kernel is not None:
            await asyncio.sleep(_POLL / 2)
            left = [
                child
                for child in kernel.children(recursive=True)
                if child.status() != psutil.STATUS_ZOMBIE
            ]
            if left and all(map(_is_tracker, left)):
                kernel.terminate()
                return


def _is_tracker(process: psutil.Process) -> bool:
    return "resource_tracker" in " ".join(process.cmdline())


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _one_line(exc: BaseException) -> str:
    return " ".join(f"{type(exc).__name__}: {exc}".split())
