"""Findings about messages that could not be loaded, or could not be pickled."""

from __future__ import annotations

from collections.abc import Sequence

from workercheck import libraries
from workercheck.evidence import records as ev
from workercheck.judge import hints, wording
from workercheck.judge.finding import Finding, FindingKind
from workercheck.judge.history import History, Work

_TASK_READERS = {name for library in libraries.LIBRARIES for name in library.task_readers}

_SHUTDOWN_NOISE = ("KeyboardInterrupt", "EOFError", "ConnectionResetError", "BrokenPipeError")
"""What a load raises when the process at the other end goes, as all do when a kernel ends."""

GUESS = "; which cell sent it is a guess, because the message could not be identified"


def failed_loads(history: History) -> list[Finding]:
    """Return a finding for each message that could not be loaded."""
    return [
        _failed_load(history, e)
        for e in history.of(ev.LoadFailed)
        if not (history.is_after_shutdown(e) and e.exception.endswith(_SHUTDOWN_NOISE))
    ]


def _failed_load(history: History, e: ev.LoadFailed) -> Finding:
    is_result = _is_result(history, e)
    work = _work_of_load(history, e, is_result)
    executor = _executor(work, wording.executor_from(e.stack))
    thing = wording.object_of(e)
    started = history.started.get(e.pid)
    method = wording.start_method(started) if started and not e.interpreter else None
    what = thing or "a message"
    name = e.exception.rsplit(".", 1)[-1]
    error = f"{name}: {e.message}" if e.message else name
    if e.found is not None:
        error = f"in the worker, the name means {e.found}"
    error = wording.clean(error)
    if is_result:
        message = f"the parent process could not unpickle {what} ({error}) that a worker sent back"
        message += f" through {executor}" if executor else ""
    else:
        message = f"a worker could not unpickle {what} ({error})"
        message += f" sent through {executor}" if executor else ""
        message += f" under {method}" if method in ("fork", "forkserver", "spawn") else ""
    return Finding(
        "unpickle-result" if is_result else "unpickle-task",
        message + history.where(work) + (GUESS if work.is_guess else ""),
        history.line(work.cell),
        cell=work.cell,
        expected=history.expects(work.cell),
        exception=e.exception or None,
        process=wording.process(e, history.role(e.pid), method),
        object=thing,
        hint=hints.failed_load(
            e,
            thing,
            is_result=is_result,
            executor=executor,
            through=work.place.through if work.place is not None else "",
            method=method,
        ),
    )


def _is_result(history: History, e: ev.LoadFailed) -> bool:
    if any(entry[1:] and entry[1] in libraries.RESULT_READERS for entry in e.stack):
        return True
    if history.is_from_above(e.fingerprint, e):
        return False
    modules = {entry[0] for entry in e.stack if entry}
    # With mpi4py, workers run the same program as the process that hands out.
    is_parent = history.is_program(e.pid) and e.pid not in history.work_processes()
    return is_parent and e.interpreter == 0 and modules.isdisjoint(_TASK_READERS)


def _work_of_load(history: History, e: ev.LoadFailed, is_result: bool) -> Work:
    """Return who handed the work out, by the message, or by the process that it started."""
    work = history.work_of_message(e.fingerprint, e) if e.fingerprint else None
    if work is None and not is_result and _starts_its_process(e):
        work = history.work_of_process(e.pid)
    if work is not None and work.cell is not None:
        return work
    return history.guess(e, wording.executor_from(e.stack), e.cell)


def _starts_its_process(e: ev.LoadFailed) -> bool:
    """Tell whether the message is the process object itself, which comes through a file."""
    return e.fingerprint == 0


def _executor(work: Work, loading: str | None) -> str | None:
    """Name the executor: by whom the work was handed to, else by whose code loaded it."""
    is_known = work.executor not in (None, *libraries.STARTERS) and not work.is_guess
    return work.executor if is_known else loading or work.executor


def failed_dumps(history: History) -> list[Finding]:
    """Return a finding for each object that could not be pickled, so that it never left."""
    found = []
    blamed: set[tuple[int, int, str, str]] = set()
    for e in history.of(ev.PickleFailed):
        cause = (e.pid, e.place, e.exception, e.message)
        is_to_blame = e.object is not None and wording.is_named_by(e.message, e.object)
        # An interpreter is sent the arguments one by one, and all of them where one cannot be.
        if history.is_after_shutdown(e) or (cause in blamed and not is_to_blame):
            continue
        if _is_start_of_no_use(e):
            continue
        if is_to_blame:
            blamed.add(cause)
        found.append(_failed_dump(history, e))
    return found


def _is_start_of_no_use(e: ev.PickleFailed) -> bool:
    """Tell whether an executor was starting a worker while somebody shut it down.

    The queues that the worker was to read are closed by then.
    """
    return e.exception == "OSError" and libraries.is_of_library(e.object or "")


def _failed_dump(history: History, e: ev.PickleFailed) -> Finding:
    work = (
        history.work_of_message(e.reply_to, e)
        if e.reply_to
        else history.work_at(e.pid, e.place)
        if e.place
        else None
    )
    library = history.library_of_worker(e.pid)
    # A worker that gets its work from a scheduler was started for all of it.
    if (work is None or work.cell is None) and not (library is not None and library.reruns):
        work = history.work_of_process(e.pid) or work
    if work is None or work.cell is None:
        work = history.guess(e, wording.executor_from(e.stack), e.cell)
    executor = _executor(work, wording.executor_from(e.stack))
    name = e.exception.rsplit(".", 1)[-1]
    error = wording.clean(f"{name}: {e.message}" if e.message else name)
    # A worker may hand a function to workers of its own; through a queue or a pipe, it answers.
    own = history.work_at(e.pid, e.place) if e.place else None
    handed_to = own.executor if own is not None else None
    is_task = handed_to is not None and not libraries.is_channel(handed_to)
    is_result = (e.is_result or history.is_worker(e.pid)) and not is_task
    kind: FindingKind = "pickle-result" if is_result else "pickle-task"
    names = work.place.names if work.place is not None else []
    thing = wording.unsent_object(e, names, is_result=is_result)
    what = thing or "an object"
    is_to_blame = wording.is_named_by(e.message, thing)
    message = (
        f"a worker could not pickle {_outcome(thing, names, is_to_blame=is_to_blame)}, and never "
        "sent it back"
        if is_result
        else f"{what} could not be pickled, and was never sent"
        if is_to_blame
        else f"something sent with {what} could not be pickled, and nothing was sent"
    )
    message += f" {'through' if is_result else 'to'} {executor}" if executor else ""
    message += f" ({error})"
    started = history.started.get(e.pid)
    method = wording.start_method(started) if started else None
    role = history.role(e.pid)
    process = f"{'process' if role == 'worker' else role} {e.pid}"
    process += f" ({method})" if method else ""
    return Finding(
        kind,
        message + history.where(work) + (GUESS if work.is_guess else ""),
        history.line(work.cell),
        cell=work.cell,
        expected=history.expects(work.cell),
        exception=e.exception or None,
        process=process,
        object=thing,
        hint=hints.failed_dump(
            thing, executor, e.message, is_result=is_result, is_to_blame=is_to_blame
        ),
    )


def _outcome(thing: str | None, names: Sequence[str], *, is_to_blame: bool) -> str:
    """Say what a worker was to send back, and as the outcome of which function."""
    function = wording.reader_object(names)
    part = thing if is_to_blame else f"something in {thing or 'an object'}"
    if function is None:
        return str(part)
    if thing in (None, function):
        return f"the outcome of {function}"
    return f"{part}{' in' if is_to_blame else ','} the outcome of {function}"
