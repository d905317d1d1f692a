"""Run one page in a kernel of its own: start it, run the cells, end it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from workercheck.evidence import records as ev
from workercheck.evidence.reader import Evidence
from workercheck.judge.steps import RAISES_EXCEPTION
from workercheck.run.kernel import Kernel, plain
from workercheck.run.page import Cell, Page
from workercheck.run.watch import POLL, Watch

SETTLE = 15.0
"""Seconds that work still under way after the last cell gets to fail, before the kernel goes."""

AFTER_LOSS = 1.0
"""Seconds that it gets where the page has lost work already, which may never end."""

ANSWERS_WITHIN = 5.0
"""Seconds in which the recorder in a kernel hears a question, and in which its answer arrives."""


class _StopPageError(Exception):
    """The page has failed, and its cell waits for what will not come."""


class NotebookRun:
    """The run of one page.

    Parameters
    ----------
    page
        What to run.
    notebook
        A copy of the page's notebook, which gets the outputs.
    evidence
        Where the events of the run are written.
    cwd
        The folder in which the kernel runs.
    environ
        The environment variables of the kernel, without the recorder's.
    has_failed
        Tells from the events so far whether the page can no longer pass.
    cell_runs
        Called with each cell that begins to run, and with None after the last one.
    """

    def __init__(
        self,
        page: Page,
        notebook: nbformat.NotebookNode,
        evidence: Evidence,
        cwd: Path,
        environ: Mapping[str, str],
        *,
        has_failed: Callable[[list[ev.Event]], bool],
        cell_runs: Callable[[Cell | None], None],
    ) -> None:
        self.page = page
        self.notebook = notebook
        self.evidence = evidence
        self.cwd = cwd
        self.environ = environ
        self.watch = Watch(evidence, cwd, has_failed)
        self.kernel = Kernel(page, notebook, evidence, self.watch.tree, self._cell_executed)
        self.cell_runs = cell_runs
        self.current = 0
        self.cell_started = 0.0
        self.is_cut_short = False
        """Whether the page was stopped on its way."""

    async def execute(self, log: IO[bytes]) -> None:
        """Start the kernel, run the cells, end everything.

        Parameters
        ----------
        log
            The file for what the kernel writes past the page.
        """
        tags = {cell.position: _prepare_tags(self.notebook, cell) for cell in self.page.cells}
        try:
            if await self._start(log):
                await self._execute_cells()
            self.watch.last_look()
        except BaseException:
            self.is_cut_short = True
            raise
        finally:
            for position, before in tags.items():
                self.notebook.cells[position].metadata.pop("tags")
                if before is not None:
                    self.notebook.cells[position].metadata["tags"] = before
            await self.kernel.end(is_cut_short=self.is_cut_short)

    async def _start(self, log: IO[bytes]) -> bool:
        try:
            await self.kernel.start(self.cwd, log, self.environ)
        except Exception as exc:
            why = "; ".join([one_line(exc), *self.kernel.log()[-1:]])
            self.evidence.append(ev.KernelDied, cell=None, message=f"it did not start: {why}")
            return False
        return True

    async def _execute_cells(self) -> None:
        client = self.kernel.client
        watcher = asyncio.ensure_future(self._keep_watching())
        try:
            for index, cell in enumerate(self.page.cells):
                self.evidence.append(ev.CellStarted, cell=index)
                self.cell_runs(cell)
                self.cell_started = time.monotonic()
                self.current = index
                work = asyncio.ensure_future(
                    client.async_execute_cell(
                        self.notebook.cells[cell.position],
                        cell.position,
                        execution_count=client.code_cells_executed + 1,
                        store_history=not cell.evaluates,
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
            watcher.cancel()
            self.cell_runs(None)
            await self._settle()
        except _StopPageError:
            self.is_cut_short = True
            self.evidence.append(ev.Stopped, cell=self.current)
            self._add_error(
                "WorkerError", "a worker of this page failed, and this cell waited for it"
            )
        except CellTimeoutError:
            self.is_cut_short = True
            assert self.page.timeout is not None
            self.evidence.append(ev.CellTimedOut, cell=self.current, timeout=self.page.timeout)
            self._add_error("CellTimeoutError", f"no end after {self.page.timeout:g} s")
        except DeadKernelError:
            self._kernel_died()
            self._add_error("DeadKernelError", "the kernel died in this cell")
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            self.watch.look()
            if self.watch.must_stop(self.cell_started):
                raise _StopPageError

    def _cell_executed(self, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        content = execute_reply["content"]
        failed = content["status"] == "error"
        number = content.get("execution_count")
        self.evidence.append(
            ev.CellFinished,
            cell=self.current,
            message_id=execute_reply["parent_header"]["msg_id"],
            number=number if type(number) is int else None,
            exception=str(content.get("ename", "")) if failed else None,
            message=str(content.get("evalue", ""))[:4000] if failed else "",
            causes=plain("\n".join(content.get("traceback", ())))[-12000:] if failed else "",
        )

    def _kernel_died(self) -> None:
        self.evidence.append(ev.KernelDied, cell=self.current, message=self.kernel.why_it_died())

    def _add_error(self, name: str, message: str) -> None:
        """Show in the page why it ends here."""
        cell = self.notebook.cells[self.page.cells[self.current].position]
        cell.setdefault("outputs", []).append(
            nbformat.v4.new_output(
                "error", ename=name, evalue=message, traceback=[f"{name}: {message}"]
            )
        )

    async def _settle(self) -> None:
        """Give the work of the last cells a moment to fail where it can be seen."""
        watch = self.watch
        watch.look()
        if not watch.is_kernel_watched:
            return  # it would not understand
        watch.token = secrets.token_hex(8)
        is_asked = False
        started = time.monotonic()
        while not watch.has_last_words:
            self.is_cut_short = watch.failed_at is not None
            if self.is_cut_short and watch.waited(started) > 2 * AFTER_LOSS:
                return
            may_come = is_asked and not watch.is_damaged
            if time.monotonic() - started > (SETTLE if may_come else 0.0) + ANSWERS_WITHIN:
                self.evidence.append(ev.Unanswered)
                break
            patience = AFTER_LOSS if self.is_cut_short else SETTLE
            is_asked = is_asked or self.kernel.ask_for_last_words(watch.token, patience)
            watch.look()
            if watch.tree.kernel_has_ended:
                self._kernel_died()
                return
            await asyncio.sleep(0.05)
        self.is_cut_short = watch.failed_at is not None
        if self.is_cut_short:
            return
        watch.scan()
        while watch.is_process_awaited:
            await asyncio.sleep(POLL)
            watch.read()


def _prepare_tags(notebook: nbformat.NotebookNode, cell: Cell) -> list[str] | None:
    """Let nbclient go on after a cell that is expected to fail; return the tags as they were."""
    metadata = notebook.cells[cell.position].metadata
    before = metadata.get("tags")
    metadata["tags"] = sorted(
        cell.tags | ({RAISES_EXCEPTION} if cell.expects_worker_error else set())
    )
    return None if before is None else list(before)


def one_line(exc: BaseException) -> str:
    """Return an exception on one line."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())
