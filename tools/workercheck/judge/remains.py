"""Findings about what was not seen, what was not watched, and what was left behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from workercheck.evidence import records as ev
from workercheck.judge import hints, wording
from workercheck.judge.cells import LOADING
from workercheck.judge.finding import WORKER_KINDS, Finding
from workercheck.judge.history import History, Work
from workercheck.libraries import BROKEN


def not_watched(reason: str, hint: str) -> Finding:
    """Word the finding about a page whose evidence is missing or cannot be trusted."""
    return Finding("not-watched", f"not watched: {wording.clean(reason)}", 0, hint=hint)


def service_threads(history: History) -> list[Finding]:
    """Return a finding for each thread of an executor that an error ended: results are lost."""
    found = []
    loads = {(e.pid, e.exception, e.message) for e in history.of(ev.LoadFailed)}
    for e in history.of(ev.Raised):
        if e.what not in _ENDS or history.is_after_shutdown(e):
            continue
        if (e.pid, e.exception, e.message) in loads:  # it ended over the message itself
            continue
        work = history.work_at(e.pid, e.place) or history.guess(e, None)
        executor = work.executor or "the executor"
        error = _error(e.exception, e.message)
        found.append(
            Finding(
                "unseen-failure",
                f"a callback raised an error ({error}) {_ENDS[e.what].format(executor=executor)}",
                history.line(work.cell),
                cell=work.cell,
                exception=e.exception or None,
                object=e.function,
                hint="Catch the error in the callback, or do its work in the page.",
            )
        )
    return found


_ENDS = {
    "service-thread": "that ended the thread of {executor} which delivers results, so no more "
    "results arrive",
    "callback": "that {executor} did not report, so the result of this piece of work never arrives",
}
"""What the error of a callback did, by the kind of its event."""

_PASSES_ON = ("MaybeEncodingError", "NotShareableError")
"""Errors that only pass on that something could not be pickled, or loaded."""

_PASSED_ON = re.compile(r"\bcould not pickle\b|\bdied unexpectedly\b", re.IGNORECASE)
"""What libraries say when they pass on that something could not be pickled, or lost its worker."""

_QUOTED = re.compile(r"\] ?(\w+): ([^\n]+)")
"""An error of a worker in the text of one that has several."""


def unseen(history: History, found: Sequence[Finding]) -> list[Finding]:
    """Return a finding for each failure at which nobody looked, but for those told already."""
    loads = {e.pid for e in history.of(ev.LoadFailed)}
    failures = [f for f in found if f.kind in WORKER_KINDS]
    raised = {e.pid: e for e in history.of(ev.Raised) if e.what == "process"}
    is_interrupted = any(e.interrupted for e in history.of(ev.Finished))
    missed = []
    for e, count in _unseen_events(history):
        name = (e.exception or "").rsplit(".", 1)[-1]
        if history.is_after_shutdown(e) or name == "ShutdownExecutorError":  # of its own shutdown
            continue
        if is_interrupted and name == "KeyboardInterrupt":  # whoever pressed Ctrl-C meant it
            continue
        if e.child in loads or (failures and _is_told(e, name, failures)):
            continue
        end = raised.get(e.child or 0)
        if end is not None and _says(failures, end.exception, end.message):
            continue
        own = history.work_at(e.pid, e.place)
        asked = history.work_of_message(e.request, e) if e.request else None
        work = asked or own or Work(history.cell_of_process(e.pid), None)
        if e.child is not None and history.was_ended_on_purpose(e.child):
            continue
        error = _error(e.exception or "", e.message)
        if e.child in raised:
            error += f", {_error(raised[e.child].exception, raised[e.child].message)}"
        place = (own or work).place
        names = place.names if place is not None else []
        thing = wording.reader_object(names) or next(iter(names), None)
        of = f" of {wording.clean(thing)}" if thing else ""
        many = f", {count} times" if count > 1 else ""
        missed.append(
            Finding(
                "unseen-failure",
                f"a {e.what}{of} failed and nobody looked at it ({error}){many}"
                f"{history.where(work)}",
                history.line(work.cell),
                cell=work.cell,
                exception=e.exception,
                object=thing,
                hint=hints.look(e.what, thing),
            )
        )
    return missed


def _unseen_events(history: History) -> Iterator[tuple[ev.Unseen, int]]:
    """Yield each failure that nobody has looked at since, with how often there was one like it.

    What only the process that did the work knows of, it tells for each piece by itself. Of those
    that were handed out in one place and failed in the same way, one that was seen is enough.
    """
    seen = {(e.pid if e.child is None else e.child, e.request) for e in history.of(ev.Seen)}
    passed_on = {(e.child, e.exception, e.message) for e in history.of(ev.Seen)}
    afar: dict[tuple[int, str | None], list[ev.Unseen]] = {}
    for e in history.of(ev.Unseen):
        if e.place or not e.request:
            if (e.pid, e.request) not in seen:
                yield e, e.count
        elif (work := history.work_of_message(e.request, e)) is not None:
            afar.setdefault((id(work.place), e.exception), []).append(e)
    for events in afar.values():
        if not any(
            not seen.isdisjoint({(e.pid, e.request), (0, e.request)})
            or (e.pid, e.exception, e.message) in passed_on
            for e in events
        ):
            yield events[0], len(events)


def _is_told(e: ev.Unseen, name: str, failures: Sequence[Finding]) -> bool:
    """Tell whether a failure only passes on what the finding about a worker says."""
    return (
        name in BROKEN
        or any(f"{broken}: " in e.message for broken in BROKEN)
        or name in _PASSES_ON
        or LOADING.search(e.message) is not None
        or _PASSED_ON.search(e.message) is not None
        or any(_says(failures, *quoted) for quoted in _QUOTED.findall(e.message))
        or _says(failures, name, e.message)
    )


def _says(failures: Sequence[Finding], exception: str, message: str) -> bool:
    """Tell whether the finding about a worker has an exception and what it says."""
    name, message = exception.rsplit(".", 1)[-1], wording.clean(message)
    return any(
        message and name == (f.exception or "").rsplit(".", 1)[-1] and message in f.message
        for f in failures
    )


def _error(exception: str, message: str) -> str:
    name = exception.rsplit(".", 1)[-1]
    return wording.clean(f"{name}: {message}" if name and message else name or message)


def unwatched(history: History) -> list[Finding]:
    """Return the findings about what the evidence cannot tell."""
    finished = history.of(ev.Finished)
    if finished and finished[-1].language != "python":
        return []
    for damaged in history.of(ev.Damaged):
        return [
            not_watched(
                f"the evidence is damaged ({damaged.reason})",
                "Make room on the disk, let no page change WORKERCHECK_EVIDENCE, and build again.",
            )
        ]
    found = []
    ended_by_itself = bool(history.of(ev.KernelDied))
    if finished and history.kernel is None and not ended_by_itself:
        return [
            not_watched(
                "the kernel started without the recorder",
                hints.unwatched_kernel(history.of(ev.KernelAnswered)),
            )
        ]
    for failed in history.of(ev.RecorderFailed)[:1]:
        found.append(
            not_watched(
                f"the recorder could not watch {failed.what} ({failed.reason})",
                "Report this as a bug, with the page and the output of `workercheck doctor`.",
            )
        )
    was_stopped = bool(history.of(ev.Stopped) or history.of(ev.CellTimedOut))
    was_left = ended_by_itself or was_stopped or _has_failed(history)
    is_answered = bool(history.of(ev.LastWords)) or was_left
    if finished and history.ended and not found and (history.of(ev.Unanswered) or not is_answered):
        found.append(
            not_watched(
                "the kernel did not answer after the last cell, so failures that nobody looked at "
                "are not known",
                "Let no compiled code hold the global interpreter lock for long, and let no page "
                "change WORKERCHECK_EVIDENCE or the files there.",
            )
        )
    return found + _processes(history)


def _has_failed(history: History) -> bool:
    """Tell whether the page may have been ended for a failure, without its last words."""
    return bool(
        history.of(ev.LoadFailed)
        or history.of(ev.PickleFailed)
        or history.of(ev.EndedAtWork)
        or history.of(ev.PoolBroken)
        or history.of(ev.Exited)
        or history.of(ev.Raised)
    )


def _processes(history: History) -> list[Finding]:
    found = []
    for e in history.of(ev.Unwatched):
        # One that said later that it watches was only slow to start, on a busy machine; one that
        # had said so before has become another program.
        started = history.started.get(e.child)
        is_late = started is not None and history.order(started) > history.order(e)
        if history.kernel is None or is_late:
            continue
        cell = history.cell_of_process(e.child)
        cell = cell if cell is not None else history.cell_at(e)
        where = f" of the environment {e.environment}" if e.environment is not None else ""
        found.append(
            Finding(
                "not-watched",
                f"a Python process{where} started without the recorder: {wording.clean(e.command)}",
                history.line(cell),
                cell=cell,
                process=f"process {e.child}",
                hint=hints.unwatched(e),
            )
        )
    return found


def leftovers(history: History) -> list[Finding]:
    """Return a finding for each cell that left processes behind, which outlived the page."""
    cells: dict[int | None, list[ev.Leftover]] = {}
    left = {e.child: e for e in history.of(ev.Leftover)}
    for e in left.values():
        # Those below another one that was left are the same cause.
        above = [pid for pid in e.parents if pid in left]
        cells.setdefault(_cell_of_leftover(history, left[above[-1]] if above else e), []).append(e)
    return [_leftovers_of_cell(history, cell, group) for cell, group in cells.items()]


def _cell_of_leftover(history: History, e: ev.Leftover) -> int | None:
    cell = history.cell_of_process(e.child)
    for parent in e.parents:
        if cell is not None or (history.kernel is not None and parent == history.kernel.pid):
            break
        cell = history.cell_of_process(parent)
    return cell if cell is not None else history.cell_at_birth(e.child, e.born)


def _leftovers_of_cell(history: History, cell: int | None, group: list[ev.Leftover]) -> Finding:
    counts = Counter(wording.clean(e.command) for e in group)
    programs = [f"{name} ({n})" if n > 1 else name for name, n in counts.most_common(_PROGRAMS)]
    if len(counts) > _PROGRAMS:
        programs.append("…")
    many = f"{len(group)} processes" if len(group) > 1 else "a process"
    were = "were" if len(group) > 1 else "was"
    library = next((lib for e in group if (lib := wording.library_of_command(e.command))), None)
    return Finding(
        "leftover-process",
        f"{many} outlived the {history.steps.name} and {were} ended: {', '.join(programs)}",
        history.line(cell),
        cell=cell,
        process=f"process {group[0].child}",
        hint=hints.leftover(library),
    )


_PROGRAMS = 4
"""How many different programs a finding names."""
