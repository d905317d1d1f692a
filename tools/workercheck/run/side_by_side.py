"""Run pages in kernels of their own, several at once."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses as dc
import functools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.run import reaper, sources
from workercheck.run.collisions import Company
from workercheck.run.kernel import LOG
from workercheck.run.notebook import NotebookRun, one_line
from workercheck.run.page import Cell, Page

_TICK = 1.0

IN_COMPANY = {"OPENBLAS_THREAD_TIMEOUT": "4"}
"""What the kernels of pages that run side by side get, where it is not set.

Threads of OpenBLAS that wait for work do so by spinning, and take the cores from other pages. With
the least value that it knows (2**4 processor cycles, not 2**28) they sleep instead."""


@dc.dataclass(frozen=True, slots=True)
class Run:
    """What the run of one page left."""

    page: Page
    notebook: nbformat.NotebookNode
    """The page's notebook with its outputs, up to where it failed."""
    events: list[ev.Event]
    seconds: float
    sources: Mapping[str, str] | None
    """What it used of the project, as `workercheck.run.sources.used` returns it."""
    machine: str = ""
    """The name of the machine of a cluster, empty for this one."""


@dc.dataclass(slots=True)
class Underway:
    """A page that is running."""

    page: Page
    started: float
    """When, as `time.monotonic` counts."""
    cell: Cell | None = None
    """The cell that runs, None before the first one and after the last."""
    cell_started: float = 0.0

    def runs(self, cell: Cell | None) -> None:
        """Note the cell that begins to run."""
        self.cell = cell
        self.cell_started = time.monotonic()


def run_pages(
    pages: Sequence[Page],
    *,
    jobs: int,
    has_failed: Callable[[Page, list[ev.Event]], bool],
    finished: Callable[[Run], None],
    progress: Callable[[Sequence[Underway]], None] = lambda _: None,
    collided: Callable[[Page, Mapping[str, Sequence[str]]], None] = lambda _page, _files: None,
    environ: Mapping[str, str] | None = None,
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
        failure. Such a page is stopped when it goes on waiting. Called only when something came
        that may be a failure.
    finished
        Called with each run, one at a time; not in this thread where an event loop runs in it.
    progress
        Called in the same thread about once a second, with what runs then.
    collided
        Called in the same thread with a page that may have run into others over files of their
        folder, and the docnames of those by file. It runs again, alone; only that run counts.
    environ
        The environment variables of the kernels, None for those of this process.

    Raises
    ------
    OSError
        If the folder for temporary files cannot be written.
    KeyboardInterrupt
        On SIGINT and SIGTERM, after every kernel and worker has been ended.
    """
    folder = Path(tempfile.mkdtemp(prefix="workercheck-"))
    with reaper.watching(folder):
        environ = os.environ if environ is None else environ
        runner = _Runner(folder, jobs, has_failed, finished, progress, collided, environ)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(runner.run(pages))
        else:
            _run_in_thread(runner, pages)


def _run_in_thread(runner: _Runner, pages: Sequence[Page]) -> None:
    """Run pages beside an event loop that runs in this thread, and stop them when it is told to."""
    with ThreadPoolExecutor(1, "workercheck") as thread:
        running = thread.submit(asyncio.run, runner.run(pages))
        try:
            running.result()
        finally:
            runner.stop()


class _Runner:
    """Runs pages, and stops at SIGTERM as at SIGINT."""

    def __init__(
        self,
        folder: Path,
        jobs: int,
        has_failed: Callable[[Page, list[ev.Event]], bool],
        finished: Callable[[Run], None],
        progress: Callable[[Sequence[Underway]], None],
        collided: Callable[[Page, Mapping[str, Sequence[str]]], None],
        environ: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.jobs = jobs
        self.slots = asyncio.Semaphore(jobs)
        self.has_failed = has_failed
        self.finished = finished
        self.progress = progress
        self.collided = collided
        self.environ = environ
        self.again: list[Page] = []
        """The pages that run again alone."""
        self.companies: list[Company] = []
        """Of the pages that run."""
        self.underway: list[Underway] = []
        self._stop: Callable[[], object] = bool

    def stop(self) -> None:
        """End what runs, from another thread; nothing where it has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._stop()

    async def run(self, pages: Sequence[Page]) -> None:
        terminated = False
        this = asyncio.current_task()
        assert this is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            this.cancel()

        loop = asyncio.get_running_loop()
        self._stop = functools.partial(loop.call_soon_threadsafe, this.cancel)
        before = signal.getsignal(signal.SIGTERM)
        # Not on Windows, nor outside the main thread, which has handlers of its own.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGTERM, terminate)
        ticker = asyncio.ensure_future(self._tick())
        try:
            together = [page for page in pages if not page.exclusive]
            alone = [page for page in pages if page.exclusive]
            if min(self.jobs, len(together)) > 1:
                async with asyncio.TaskGroup() as group:
                    for page in together:
                        group.create_task(self._run_in_company(page))
                together = self.again
            for page in (*together, *alone):
                self.finished(await self._run(page, {}))
        except asyncio.CancelledError:
            if terminated:  # as Ctrl-C does, through every ``finally``
                raise KeyboardInterrupt from None
            raise
        except BaseExceptionGroup as group_of:
            raise group_of.exceptions[0] from None
        finally:
            ticker.cancel()
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                if loop.remove_signal_handler(signal.SIGTERM):
                    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    async def _tick(self) -> None:
        while True:
            self.progress(self.underway)
            await asyncio.sleep(_TICK)

    async def _run_in_company(self, page: Page) -> None:
        async with self.slots:
            if page.in_temp:
                self.finished(await self._run(page, IN_COMPANY))
                return
            company = Company(page)
            for other in self.companies:
                company.meets(other)
            self.companies.append(company)
            try:
                run = await self._run(page, IN_COMPANY)
            finally:
                self.companies.remove(company)
            if files := company.collisions(run.events):
                self.collided(page, files)
                self.again.append(page)
            else:
                self.finished(run)

    async def _run(self, page: Page, defaults: Mapping[str, str]) -> Run:
        underway = Underway(page, time.monotonic())
        self.underway.append(underway)
        try:
            environ = {**defaults, **self.environ}
            return await _run(underway, self.folder, environ, self.has_failed)
        finally:
            self.underway.remove(underway)


async def _run(
    underway: Underway,
    root: Path,
    environ: Mapping[str, str],
    has_failed: Callable[[Page, list[ev.Event]], bool],
) -> Run:
    page = underway.page
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        evidence = Evidence(folder).create(sources.project_of(page.path.parent))
        cwd = folder / "cwd" if page.in_temp else page.path.parent
        cwd.mkdir(exist_ok=True)
        notebook = copy.deepcopy(page.notebook)
        run = NotebookRun(
            page,
            notebook,
            evidence,
            cwd,
            environ,
            has_failed=lambda events: has_failed(page, events),
            cell_runs=underway.runs,
        )
        with (folder / LOG).open("wb") as log:
            try:
                await run.execute(log)
            except Exception as exc:  # whatever it is, the other pages can do nothing about it
                message = f"workercheck could not run the page: {one_line(exc)}"
                evidence.append(ev.KernelDied, cell=None, message=message)
        evidence.read(final=True)
        seconds = time.monotonic() - underway.started
        language = notebook.metadata.get("language_info", {}).get("name", "python")
        evidence.append(ev.Finished, date=time.time(), seconds=seconds, language=language)
        events = evidence.read()
        return Run(page, notebook, events, seconds, sources.used(events))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
