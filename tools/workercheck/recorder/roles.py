"""What is done at each function of a library that `workercheck.libraries` names.

A role is a name in the table of libraries; here it gets its moment, the start or the return of the
function, and the handler that is called then with the function's frame.
"""

from __future__ import annotations

import os

from workercheck.libraries import ALWAYS, LIBRARIES
from workercheck.recorder import (
    afar,
    asynchronous,
    behalf,
    children,
    endings,
    events,
    files,
    frames,
    handles,
    keyed,
    lookups,
    messages,
    monitor,
    numbered,
    places,
    raised,
    results,
    sent_later,
    shutdown,
    signals,
    sources,
    waiting,
    work,
)

TYPE_CHECKING = False  # importing typing would cost each interpreter a millisecond
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ROLES: dict[str, tuple[str, Any]] = {
    "submit": ("return", work.submitted),
    "submit-numbered": ("return", numbered.submitted),
    "future-failed": ("start", work.future_failed),
    "future-raises": ("line", work.future_raises),
    "future-answers": ("return", work.was_asked),  # one that waited in vain got none
    "failure-shown": ("return", work.was_shown),
    "failure-read": ("return", work.was_read),
    "map-begins": ("start", work.map_begins),
    "map-of-begins": ("start", work.map_of_begins),
    "map-ends": ("return", work.map_ends),
    "whole-made": ("return", work.whole_made),
    "thread-pool-made": ("return", work.thread_pool_made),
    "result-made": ("return", results.result_made),
    "result-returned": ("return", results.result_returned),
    "result-printed": ("start", results.result_printed),
    "results-given-up": ("start", results.results_given_up),
    "results-raised": ("start", results.results_raised),
    "results-collected": ("return", results.results_collected),
    "thread-returned": ("return", results.thread_returned),
    "result-set": ("start", results.result_set),
    "result-raises": ("line", results.result_raises),
    "result-asked": ("start", work.was_asked),
    "result-asked-with": ("start", work.was_asked_with),
    "success-read": ("return", results.success_read),
    "wrapped-asked": ("start", work.wrapped_asked),
    "chunk-done": ("return", results.chunk_done),
    "item-set": ("start", results.item_set),
    "item-asked": ("start", work.was_asked),
    "item-raises": ("line", results.item_raises),
    "object-put": ("start", sent_later.object_put),
    "tasks-put": ("never", None),  # their places are known by their numbers
    "batch-made": ("return", results.batch_made),
    "batch-done": ("start", results.batch_done),
    "batch-asked": ("start", work.was_asked),
    "keyed-submitted": ("return", keyed.submitted),
    "keyed-graph-submitted": ("return", keyed.graph_submitted),
    "keyed-finished": ("start", keyed.finished),
    "keyed-failed": ("return", keyed.failed),
    "keyed-status-read": ("return", keyed.status_read),
    "keyed-shown": ("return", keyed.shown),
    "keyed-gathered": ("start", keyed.gathered),
    "keyed-sent-off": ("return", keyed.sent_off),
    "keyed-erred": ("start", keyed.erred),
    "keyed-begins": ("start", keyed.begins),
    "keyed-ends": ("return", keyed.ends),
    "method-called": ("return", keyed.method_called),
    "method-answered": ("start", keyed.method_answered),
    "afar-submitted": ("return", afar.submitted),
    "afar-failed": ("start", afar.failed),
    "afar-looked-at": ("return", afar.looked_at),
    "afar-died": ("return", afar.died),
    "message-made": ("return", messages.message_made),
    "message-written": ("return", messages.message_written),
    "task-begins": ("start", messages.task_begins),
    "task-acknowledged": ("return", messages.task_acknowledged),
    "task-done": ("return", messages.task_done),
    "manager-thread": ("start", waiting.manager_thread),
    "pool-made": ("return", waiting.pool_made),
    "pool-broken": ("start", endings.pool_broken),
    "process-start": ("start", endings.process_starts),
    "process-made": ("return", endings.process_started),
    "process-closed": ("start", endings.process_closed),
    "process-ends": ("start", endings.process_ends),
    "process-asked-to-end": ("start", signals.process_asked_to_end),
    "exitcode-read": ("return", endings.exitcode_read),
    "child-polled": ("return", endings.child_polled),
    "answer-missing": ("line", endings.answer_missing),
    "error-printed": ("start", raised.error_printed),
    "callback-error-kept": ("line", raised.callback_error_kept),
    "callback-error-logged": ("start", raised.callback_error_logged),
    "initializer-error-kept": ("line", raised.initializer_error_kept),
    "exit-kept": ("line", raised.exit_kept),
    "error-logged": ("start", raised.error_logged),
    "task-made": ("return", asynchronous.task_made),
    "loop-future-made": ("return", asynchronous.loop_future_made),
    "thread-future-made": ("return", asynchronous.thread_future_made),
    "task-read": ("return", asynchronous.task_read),
    "never-retrieved": ("start", asynchronous.never_retrieved),
    "thread-start": ("start", children.thread_starts),
    "program-started": ("return", children.program_started),
    "block-made": ("start", sources.block_made),
    "file-runs": ("start", files.begins),
    "kernel-starts": ("start", shutdown.kernel_starts),
    "kernel-launched": ("start", shutdown.kernel_launched),
    "kernel-interrupted": ("start", shutdown.kernel_interrupted),
    "program-kernel-starts": ("start", shutdown.program_kernel_starts),
    "program-kernel-closed": ("start", shutdown.program_kernel_closed),
}

SENDERS: dict[str, Any] = {
    "pool-task": sent_later.pool_task,
    "queued-object": sent_later.queued_object,
    "future": sent_later.future_among,
}
"""How the place of what a library sends later is found; one with an argument makes the finder."""


def start() -> None:
    """Watch pickle, the signals, and the functions of every library."""
    monitor.on_arrival("_pickle", messages.watch_pickle)
    monitor.on_arrival("dill._dill", messages.watch_dill)
    monitor.on_arrival("threading", raised.watch_service_threads)
    monitor.on_arrival("_posixsubprocess", children.watch_programs)
    monitor.on_each_arrival(work.may_make_no_futures)
    for functions in (ALWAYS, *(library.functions for library in LIBRARIES)):
        for module, watched in functions.items():
            for path, role in watched:
                name, _, argument = role.partition(" ")
                moment, handler = ROLES[name]
                monitor.watch(module, path, moment, handler(argument) if argument else handler)
    for library in LIBRARIES:
        for module, names in library.wrapped.items():
            monitor.on_arrival(module, _watcher_of_dumps(tuple(names)))
        for module, names in library.lookups.items():
            monitor.on_arrival(module, _watcher_of_lookups(tuple(names)))
        for module, classes in library.numbered.items():
            monitor.on_arrival(module, _watcher_of_numbered(classes))
        for module, senders in library.senders.items():
            monitor.on_arrival(module, _watcher_of_senders(senders))
    for package in ("multiprocessing", "multiprocess"):
        monitor.on_arrival(f"{package}.spawn", lookups.watch_imports_of_main)
    signals.watch_signals(os)
    endings.watch_exit(os)
    children.watch_starts(os)
    try:
        monitor.start()
        for owner, function in files.loaders():
            monitor.watch_now(owner, function, "start", files.begins)
    except Exception as exc:
        # The loads are what matters most.
        messages.watch_pickle_now()
        events.failed("the functions of libraries", exc)
    _at_exit()


def _at_exit() -> None:
    """Tell what nobody looked at when a program ends; a kernel is asked before."""
    import atexit

    atexit.register(events.guarded(endings.tell, "the end of a program"))


def _watcher_of_dumps(names: tuple[str, ...]) -> Any:
    return lambda module: messages.watch_dumps(module, names)


def _watcher_of_lookups(names: tuple[str, ...]) -> Any:
    return lambda module: lookups.watch(module, names)


def _watcher_of_numbered(classes: tuple[str, str]) -> Any:
    return lambda module: messages.watch_numbered(module, *classes)


def _watcher_of_senders(senders: Iterable[tuple[str, str]]) -> Any:
    def arrived(module: Any) -> None:
        for path, role in senders:
            name, _, argument = role.partition(" ")
            code = monitor.code_of(module, path)
            if code is not None:
                resolver = SENDERS[name]
                places.resolve_at(code, resolver(argument) if argument else resolver)

    return arrived


def forget() -> None:
    """Begin anew in a forked child: what the parent holds is the parent's to tell."""
    messages.forget()
    afar.forget()
    frames.forget()
    behalf.forget()
    places.forget()
    handles.forget()
    endings.forget()
    signals.forget()
    waiting.forget()
    asynchronous.forget()
    keyed.forget()
    work.forget()
    sent_later.forget()
    numbered.forget()
