"""Turn a page's evidence into findings.

Each finding is worded here, once. Two rules keep the list short: one cause is one finding, however
many workers met it, and an error that merely follows from a worker's failure (a broken pool, a cell
that waits for ever) is told in that failure's finding instead of one of its own.
"""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Iterable, Sequence

from workercheck.evidence import records as ev
from workercheck.judge import wording
from workercheck.judge.finding import Finding, FindingKind
from workercheck.judge.history import History, of
from workercheck.judge.steps import Steps

WORKER_KINDS: frozenset[FindingKind] = frozenset(
    {"unpickle-task", "unpickle-result", "worker-died"}
)
"""The kinds that a cell tagged ``expect-worker-error`` must produce."""

_BROKEN = {
    "BrokenProcessPool",
    "BrokenExecutor",
    "BrokenInterpreterPool",
    "TerminatedWorkerError",
    "ShutdownExecutorError",
    "KilledWorker",
}
"""What a page sees of an executor that has lost a worker."""

_PARENT_SIDE = {
    "wait_result_broken_or_wakeup",
    "_handle_results",
    "_callmethod",
    "_handle_report",
}
"""Functions of an executor's parent process that load what workers send back."""

_WORKER_MODULES = {"distributed.scheduler", "distributed.worker", "distributed.nanny"}
"""Modules that load what the page sends, though a local cluster has them in the page's process."""

_SHUTDOWN_NOISE = ("KeyboardInterrupt", "EOFError", "ConnectionResetError", "BrokenPipeError")
"""What a load raises when the process at the other end goes, as all do when a kernel ends."""


def judge(page: Steps, events: Sequence[ev.Event]) -> list[Finding]:
    """Return the findings about an executed page, by line.

    Parameters
    ----------
    page
        The page as it is now: lines and tags come from it.
    events
        The evidence of its run, whole or so far.
    """
    return _Judge(page, events).findings()


def not_executed(line: int, reason: str, hint: str) -> Finding:
    """Word the finding about a page, or a cell of one, that nobody ran."""
    return Finding("not-executed", f"not executed: {wording.clean(reason)}", line, hint=hint)


def not_watched(reason: str, hint: str) -> Finding:
    """Word the finding about a page whose evidence is missing or cannot be trusted."""
    return Finding("not-watched", f"not watched: {wording.clean(reason)}", 0, hint=hint)


def has_failed(page: Steps, events: Sequence[ev.Event]) -> bool:
    """Tell whether a worker has failed that was not expected to: the page can no longer pass."""
    return any(f.kind in WORKER_KINDS and not f.expected for f in judge(page, events))


class _Judge:
    """The evidence of one page, and what follows from it."""

    def __init__(self, page: Steps, events: Sequence[ev.Event]) -> None:
        self.page = page
        self.events = events
        self.history = History(page, events)

    def findings(self) -> list[Finding]:
        failures = [*self._failed_loads(), *self._dead_workers()]
        failures = _merge(failures)
        found = [*self._explain(failures)]
        found += self._cell_errors(failures)
        found += self._unseen(found)
        found += self._kernel()
        if not any(f.kind in WORKER_KINDS and not f.expected for f in found):
            found += self._timeouts()
        found += self._absent(found)
        found += self._unwatched()
        found += self._leftovers()
        return sorted(map(wording.presentable, found), key=lambda f: (f.line, f.kind))

    # --- failed loads ---

    def _failed_loads(self) -> list[Finding]:
        found = []
        for e in of(self.events, ev.LoadFailed):
            kind = e.exception.rsplit(".", 1)[-1]
            if e.time >= self.history.closing and kind in _SHUTDOWN_NOISE:
                continue
            functions = {function for _, function in e.stack}
            modules = {module for module, _ in e.stack}
            result = not functions.isdisjoint(_PARENT_SIDE) or (
                e.pid == self.history.kernel
                and e.interpreter == 0
                and modules.isdisjoint(_WORKER_MODULES)
            )
            executor = wording.executor_from(e.stack)
            thing = wording.object_of(e)
            names = [thing or "", *e.globals]
            submission = self.history.submission(e.pid, e.time, executor, names)
            if submission is not None and executor in (None, "multiprocessing.Process"):
                executor = wording.public(submission.executor)
            cell = (
                self.history.cell_of(submission.cell, submission.time)
                if submission is not None
                else self.history.cell_of(e.cell, e.time)
            )
            hello = self.history.hellos.get(e.pid)
            method = wording.start_method(hello) if hello else None
            if e.interpreter:
                method = None
            what = thing or "a message"
            error = f"{kind}: {e.message}" if e.message else kind
            through = f" sent through {executor}" if executor else ""
            under = f" under {method}" if method in ("fork", "forkserver", "spawn") else ""
            if result:
                message = (
                    f"the parent could not unpickle {what} ({wording.clean(error)}) that a worker"
                )
                message += f" sent back through {executor}" if executor else " sent back"
            else:
                message = (
                    f"a worker could not unpickle {what} ({wording.clean(error)}){through}{under}"
                )
            found.append(
                Finding(
                    "unpickle-result" if result else "unpickle-task",
                    message,
                    self.history.line(cell),
                    cell=cell,
                    expected=self.history.expects(cell),
                    exception=e.exception,
                    process=wording.process(
                        e, is_kernel=e.pid == self.history.kernel, method=method
                    ),
                    object=thing,
                    hint=wording.hint(e, thing, result, executor),
                )
            )
        return found

    # --- dead workers ---

    def _dead_workers(self) -> list[Finding]:
        explained = {e.pid for e in of(self.events, ev.LoadFailed)}
        loads = [e.time for e in of(self.events, ev.LoadFailed)]
        found = []
        # What ends in the shutdown is no failure, and explains none that was there before.
        before = [e for e in self.events if e.time < self.history.closing]
        ended = {e.child for e in of(before, ev.Terminated)}
        for broken in of(before, ev.PoolBroken):
            ended.update(set(broken.pids) - set(broken.ended))
        for died in of(self.events, ev.DiedLoading):
            if died.child in ended:
                continue
            thing = wording.reader_object(died.globals)
            explained.add(died.child)
            found.append(
                self._death(
                    died.child,
                    died.time,
                    None,
                    died.globals,
                    f"a worker died while it unpickled {thing or 'a message'}",
                    f"worker {died.child}",
                    thing,
                    exitcode=self._exitcode(died.child),
                )
            )
        last = 0.0
        for broken in of(before, ev.PoolBroken):
            known = not explained.isdisjoint(broken.pids) or any(
                last < moment <= broken.time for moment in loads
            )
            last = broken.time
            explained.update(broken.pids)
            if known:
                continue
            codes = [c for pid in broken.pids if (c := self._exitcode(pid))]
            found.append(
                self._death(
                    broken.pid,
                    broken.time,
                    broken.executor,
                    (),
                    "a worker died while it had work",
                    f"worker {', '.join(map(str, broken.ended or broken.pids))}",
                    None,
                    exitcode=codes[0] if codes else None,
                )
            )
        for gone in of(before, ev.Exited):
            target = gone.target or ""
            is_worker = target.startswith((*wording.MACHINERY, "distributed."))
            if gone.child in explained or (gone.exitcode > 0 and not is_worker):
                continue
            explained.add(gone.child)
            found.append(
                self._death(
                    gone.pid,
                    gone.time,
                    "dask.distributed"
                    if target.startswith("distributed.")
                    else "multiprocessing.Pool"
                    if is_worker
                    else "multiprocessing.Process",
                    (target,),
                    "a worker died while it had work",
                    f"worker {gone.child}",
                    None if is_worker else gone.target,
                    exitcode=gone.exitcode,
                )
            )
        return found

    def _exitcode(self, pid: int) -> int | None:
        return next((e.exitcode for e in of(self.events, ev.Exited) if e.child == pid), None)

    def _death(
        self,
        pid: int,
        moment: float,
        executor: str | None,
        names: Iterable[str],
        message: str,
        process: str,
        thing: str | None,
        exitcode: int | None,
    ) -> Finding:
        submission = self.history.submission(pid, moment, executor, names)
        if submission is not None:
            executor = executor if executor and not submission.executor else submission.executor
            cell = self.history.cell_of(submission.cell, submission.time)
        else:
            cell = self.history.cell_at(moment)
        if exitcode is not None:
            message += f" ({wording.end_of(exitcode)})"
        if executor:
            message += f", sent through {wording.public(executor)}"
        return Finding(
            "worker-died",
            message,
            self.history.line(cell),
            cell=cell,
            expected=self.history.expects(cell),
            process=process,
            object=thing,
            hint="Find what ends it: run the function in the page itself, without an executor; "
            "a crash in compiled code, os._exit and too little memory end a process at once.",
        )

    # --- cells ---

    def _cell_errors(self, failures: Sequence[Finding]) -> list[Finding]:
        found = []
        for e in self.history.ended:
            if e.exception is None or e.cell >= len(self.page.cells):
                continue
            cell = self.page.cells[e.cell]
            error = f"{e.exception}: {e.message}" if e.message else e.exception
            follows = _is_broken(e) or any(_follows(e, failure) for failure in failures)
            if follows and any(not failure.expected for failure in failures):
                continue
            if follows and not failures:
                submission = self.history.submission(e.pid, e.time, None, ())
                where = (
                    self.history.cell_of(submission.cell, submission.time) if submission else e.cell
                )
                kind: FindingKind = "worker-died"
                message = "a worker died while it had work"
                if "un-serialize" in e.message:
                    kind = "unpickle-result" if "result" in e.message else "unpickle-task"
                    message = "a message between the page and its workers could not be unpickled"
                found.append(
                    Finding(
                        kind,
                        f"{message} ({wording.clean(error)})",
                        self.history.line(where),
                        cell=where,
                        expected=self.history.expects(where),
                        exception=e.exception,
                        hint="Read the traceback in the page; run the function without an "
                        "executor to see what ends it.",
                    )
                )
            elif not (cell.may_raise or self.page.allow_errors):
                found.append(
                    Finding(
                        "cell-error",
                        f"the cell failed ({wording.clean(error)})",
                        cell.line,
                        cell=e.cell,
                        exception=e.exception,
                        hint="Mend the cell, or tag it raises-exception if the error is its point.",
                    )
                )
        return found

    def _explain(self, failures: Sequence[Finding]) -> list[Finding]:
        """Add to the first failure where the page went no further because of it."""
        if not failures:
            return []
        first, *others = failures
        stopped = [e.cell for e in of(self.events, ev.Stopped)]
        broken = [
            e for e in self.history.ended if _is_broken(e) and not self.history.expects(e.cell)
        ]
        note = ""
        if stopped:
            note = (
                f"; the cell at line {self.history.line(stopped[0])} waited for it and was stopped"
            )
        elif broken and broken[0].cell != first.cell:
            note = f"; the cell at line {self.history.line(broken[0].cell)} failed with it"
            note += f" ({broken[0].exception})"
        return [dc.replace(first, message=first.message + note), *others]

    def _timeouts(self) -> list[Finding]:
        return [
            Finding(
                "cell-timeout",
                f"the cell did not end within {e.timeout:g} s",
                self.history.line(e.cell),
                cell=e.cell,
                exception="CellTimeoutError",
                hint="Make it faster, give the page more time with execution_timeout in its "
                "mystnb header, or find what it waits for.",
            )
            for e in of(self.events, ev.CellTimedOut)
        ]

    def _kernel(self) -> list[Finding]:
        return [
            Finding(
                "kernel-died",
                f"the kernel died ({wording.clean(e.message)})",
                self.history.line(e.cell) or (self.page.cells[0].line if self.page.cells else 0),
                cell=e.cell,
                hint="Run the cell in a Python interpreter to see what ends it; install the "
                "kernel that the page's header names if it did not start.",
            )
            for e in of(self.events, ev.KernelDied)
        ]

    def _absent(self, found: Sequence[Finding]) -> list[Finding]:
        seen = {f.cell for f in found if f.kind in WORKER_KINDS}
        errors = {e.cell: e for e in self.history.ended}
        absent = []
        for index, cell in enumerate(self.page.cells):
            if not cell.expects_worker_error or index in seen or index not in errors:
                continue
            error = errors[index]
            instead = (
                f"it failed with {wording.clean(error.exception)} instead"
                if error.exception
                else "it passed"
            )
            absent.append(
                Finding(
                    "expected-but-absent",
                    f"the cell is tagged expect-worker-error, and no worker failed: {instead}",
                    cell.line,
                    cell=index,
                    exception=error.exception,
                    hint="Take the tag away if the failure is mended, or mend the cell so that it "
                    "shows the failure again.",
                )
            )
        return absent

    # --- what was not seen, and what was left ---

    def _unseen(self, found: Sequence[Finding]) -> list[Finding]:
        loads = {e.pid for e in of(self.events, ev.LoadFailed)}
        failed_in_worker = any(f.kind in WORKER_KINDS for f in found)
        unseen = []
        for e in of(self.events, ev.Unseen):
            name = (e.exception or "").rsplit(".", 1)[-1]
            if name == "ShutdownExecutorError":  # dropped by the page's own shutdown
                continue
            if e.child in loads or (
                failed_in_worker
                and (
                    name in _BROKEN
                    or any(f"{broken}: " in e.message for broken in _BROKEN)
                    or _LOADING.search(e.message)
                )
            ):
                continue
            cell = self.history.cell_of(e.cell, e.time)
            error = f"{name}: {e.message}" if name and e.message else name or e.message
            own = wording.reader_object(e.names) or next(iter(e.names), None)
            unseen.append(
                Finding(
                    "unseen-failure",
                    f"a {e.what} failed and nobody looked at it ({wording.clean(error)})",
                    self.history.line(cell),
                    cell=cell,
                    exception=e.exception,
                    object=own,
                    hint=wording.LOOK.get(e.what),
                )
            )
        return _merge(unseen)

    def _unwatched(self) -> list[Finding]:
        finished = of(self.events, ev.Finished)
        if finished and finished[-1].language != "python":
            return []
        install = "Install workercheck in the environment of the page's kernel."
        found = [
            not_watched(
                f"its evidence is damaged ({e.reason})",
                "Build again, with room on the disk, and let no page touch WORKERCHECK_EVIDENCE.",
            )
            for e in of(self.events, ev.Damaged)[:1]
        ]
        if found:
            return found
        if finished and self.history.kernel is None and not of(self.events, ev.KernelDied):
            found.append(not_watched("its kernel started without the recorder", install))
        for e in of(self.events, ev.Unwatched):
            cell = self.history.cell_at(e.time)
            # One that said hello after all was only slow to start, on a busy machine.
            if self.history.kernel is not None and e.child not in self.history.hellos:
                found.append(
                    Finding(
                        "not-watched",
                        "a Python process started without the recorder: "
                        f"{wording.clean(e.command)}",
                        self.history.line(cell),
                        cell=cell,
                        process=f"process {e.child}",
                        hint="Hand os.environ on to it, and start it without -S.",
                    )
                )
        return found

    def _leftovers(self) -> list[Finding]:
        found = []
        for e in of(self.events, ev.Leftover):
            hello = self.history.hellos.get(e.child)
            cell = self.history.cell_at(hello.time) if hello else None
            found.append(
                Finding(
                    "leftover-process",
                    f"a process outlived the page and was ended: {wording.clean(e.command)}",
                    self.history.line(cell),
                    cell=cell,
                    process=f"process {e.child}",
                    hint="End it in the page: shut its executor down, or use a with block.",
                )
            )
        return found


def _merge(failures: Sequence[Finding]) -> list[Finding]:
    """Keep one finding for each cause, in order, and say how many processes met it."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for failure in failures:
        cause = (failure.kind, failure.line, failure.object, failure.exception, failure.message)
        groups.setdefault(cause, []).append(failure)
    merged = []
    for group in groups.values():
        many = f", in {len(group)} processes" if len({f.process for f in group}) > 1 else ""
        merged.append(dc.replace(group[0], message=group[0].message + many))
    return merged


_LOADING = re.compile(r"\b(?:un-?|de)(?:pickl|serializ)", re.IGNORECASE)
"""What libraries say when they pass on that something could not be loaded."""


def _is_broken(error: ev.CellFinished) -> bool:
    """Tell whether a cell failed because an executor had lost a worker."""
    return error.exception is not None and (
        error.exception in _BROKEN
        or any(f"{name}: " in error.causes or f"{name}(" in error.message for name in _BROKEN)
    )


def _follows(error: ev.CellFinished, failure: Finding) -> bool:
    """Tell whether a cell's error is what a worker's failure looks like in the page."""
    if failure.cell == error.cell or _LOADING.search(error.message):
        return True
    name = (failure.exception or "").rsplit(".", 1)[-1]
    return (
        bool(error.message)
        and name == error.exception
        and (wording.clean(error.message) in failure.message)
    )
